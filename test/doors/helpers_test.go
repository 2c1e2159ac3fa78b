// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"context"
	"math"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// expect compares the beginning of an answer with the expected one.
func expect(t *testing.T, cell, want string, err error) {
	t.Helper()
	got := answer(err)
	if want == allowed && got != allowed || !strings.HasPrefix(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", cell, got, want)
	}
}

// namespace creates a namespace in which everybody has all rights that the policies check. It is deleted with the
// cluster.
func namespace(t *testing.T, name string, labels map[string]string) string {
	t.Helper()
	ctx := t.Context()
	_, err := stage.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	trial.Must(t, err)
	bind(t, name, wideRole, everybody()...)
	trial.Must(t, eventually(ctx, "namespace "+name+" has a service account", func() (bool, error) {
		_, err := stage.admin.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	}))
	return name
}

// bind binds a ClusterRole to identities in a namespace.
func bind(t *testing.T, namespace, role string, ids ...identity) {
	t.Helper()
	b := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
	for _, id := range ids {
		b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: id.user})
	}
	_, err := stage.admin.RbacV1().RoleBindings(namespace).Create(t.Context(), b, metav1.CreateOptions{})
	trial.Must(t, err)
}

// enabled creates an enabled namespace with its budget, as the guard does, and waits until guarded pods can be
// created.
func enabled(t *testing.T, name string) string {
	t.Helper()
	namespace(t, name, map[string]string{call.EnabledLabel: "true"})
	_, err := stage.as(guard()).PolicyV1().PodDisruptionBudgets(name).Create(t.Context(), budget(), metav1.CreateOptions{})
	trial.Must(t, err)
	awaitBirth(t, name)
	return name
}

func awaitBirth(t *testing.T, namespace string) {
	t.Helper()
	trial.Must(t, eventually(t.Context(), "a guarded pod can be born in namespace "+namespace, func() (bool, error) {
		_, err := stage.admin.CoreV1().Pods(namespace).Create(t.Context(), agentPod("canary"), metav1.CreateOptions{DryRun: dry()})
		return err == nil, err
	}))
}

// budget is the PodDisruptionBudget that the guard creates.
func budget() *policyv1.PodDisruptionBudget {
	all := intstr.FromInt32(math.MaxInt32)
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "callguard"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &all,
			Selector: &metav1.LabelSelector{
				MatchLabels:      map[string]string{call.GuardedLabel: "true"},
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: call.ReleasedLabel, Operator: metav1.LabelSelectorOpDoesNotExist}},
			},
		},
	}
}

// create creates a pod. If it can be scheduled, it runs when create returns.
func create(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := stage.admin.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	trial.Must(t, err)
	if pod.Spec.SchedulerName != "" {
		return made
	}
	trial.Must(t, eventually(t.Context(), "pod "+pod.Name+" runs", func() (bool, error) {
		made = get(t, namespace, pod.Name)
		return made.Status.Phase == corev1.PodRunning, nil
	}))
	return made
}

// serving creates guarded pods that run.
func serving(t *testing.T, namespace string, names ...string) []*corev1.Pod {
	t.Helper()
	pods := make([]*corev1.Pod, len(names))
	for i, name := range names {
		_, err := stage.admin.CoreV1().Pods(namespace).Create(t.Context(), agentPod(name), metav1.CreateOptions{})
		trial.Must(t, err)
		_ = i
	}
	for i, name := range names {
		trial.Must(t, eventually(t.Context(), "pod "+name+" runs", func() (bool, error) {
			pods[i] = get(t, namespace, name)
			return pods[i].Status.Phase == corev1.PodRunning, nil
		}))
	}
	return pods
}

func get(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	pod, err := stage.admin.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	trial.Must(t, err)
	return pod
}

// guardPatches patches a pod as the guard.
func guardPatches(t *testing.T, namespace, name, patch string) {
	t.Helper()
	_, err := stage.as(guard()).CoreV1().Pods(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	trial.Must(t, err)
}

// kubeletReports updates the status of a pod as the kubelet of its node.
func kubeletReports(t *testing.T, namespace, name string, change func(*corev1.PodStatus)) {
	t.Helper()
	pod := get(t, namespace, name)
	change(&pod.Status)
	id := identity{"kubelet of " + pod.Spec.NodeName, "system:node:" + pod.Spec.NodeName, []string{"system:nodes"}}
	_, err := stage.as(id).CoreV1().Pods(namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	trial.Must(t, err)
}

// ended reports that the containers of a pod have ended.
func ended(s *corev1.PodStatus) {
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}
		s.ContainerStatuses[i].Ready = false
	}
}

// crashing reports that they wait to be restarted.
func crashing(s *corev1.PodStatus) {
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		s.ContainerStatuses[i].Ready = false
	}
}

// unready reports that a pod runs and is not ready.
func unready(s *corev1.PodStatus) {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.PodReady {
			s.Conditions[i].Status = corev1.ConditionFalse
		}
	}
}

// isOneOf reports whether somebody is among the identities.
func isOneOf(id identity, ids ...identity) bool {
	for _, other := range ids {
		if id.user == other.user {
			return true
		}
	}
	return false
}

// taint replaces the taints of a node.
func taint(t *testing.T, name string, taints ...corev1.Taint) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	trial.Must(t, eventually(ctx, "node "+name+" is tainted", func() (bool, error) {
		node, err := stage.admin.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		node.Spec.Taints = taints
		_, err = stage.admin.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
		return err == nil, err
	}))
}
