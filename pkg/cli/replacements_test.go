// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/callguard/callguard/pkg/call"
)

// aside is a pod whose replacement is not ready.
func aside(p *corev1.Pod) {
	draining(p)
	delete(p.Annotations, call.DrainingAnnotation)
}

// coming is a replacement of the pods of Deployment web that fits on no node.
func coming(why corev1.PodCondition, waiting *corev1.ContainerStateWaiting) edit {
	return func(p *corev1.Pod) {
		p.Spec.NodeName, p.CreationTimestamp = "", metav1.NewTime(noon().Add(-time.Minute))
		p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{why}}
		if waiting != nil {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", State: corev1.ContainerState{Waiting: waiting}}}
		}
	}
}

func unschedulable() corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes are available:\n2 Insufficient cpu."}
}

func scheduled() corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}
}

// TestStuckReplacement: drain and why name what keeps a replacement from running, with the message of the
// component that refuses it.
func TestStuckReplacement(t *testing.T) {
	quota := workload(1)
	set, _ := quota[1].(*appsv1.ReplicaSet)
	set.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: `pods "web-1-x" is forbidden: exceeded quota: small`}}
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		want    string
	}{
		"Scheduler": {reason: "No node takes it.", objects: append(workload(1), newPod("web-1-x", coming(unschedulable(), nil))), want: "its replacement web-1-x is Pending: 0/2 nodes are available:; 2 Insufficient cpu."},
		"Image": {reason: "The node cannot start it.", objects: append(workload(1), newPod("web-1-x", coming(scheduled(), &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}))),
			want: "its replacement web-1-x is Pending: container agent: ImagePullBackOff: not found"},
		"Quota":    {reason: "Something refuses to create it.", objects: quota, want: `no replacement can be made (FailedCreate): pods "web-1-x" is forbidden: exceeded quota: small`},
		"Starting": {reason: "A replacement that is just starting is no problem.", objects: append(workload(1), newPod("web-1-x", coming(scheduled(), &corev1.ContainerStateWaiting{Reason: "ContainerCreating"})))},
		"OfAnother": {reason: "Another workload's is not its own.", objects: append(workload(1), newPod("other-1", coming(unschedulable(), nil), func(p *corev1.Pod) {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "other", UID: "other", Controller: &yes}}
		}))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, append(tc.objects, newNode(true), newNamespace(voice, true), newBudget(voice), newGuardDeployment(), newPod("a", aside))...)
			s.calls = map[string]int64{"a": 1}
			var out, explained bytes.Buffer
			newProgress(s.cluster, s.administered(t.Context()), &lines{to: &out}, "node-1").show(t.Context(), []*corev1.Pod{newPod("a", aside)}, 1)
			const waits = "too few others of its workload can take calls; it goes on serving until replacements are ready"
			want := waits + "\n"
			if tc.want != "" {
				want = waits + "; " + tc.want + "\n"
			}
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s The drain does not say %q:\n%s", tc.reason, want, out.String())
			}
			if err := why(t.Context(), s.cluster, &explained, voice, "a", ""); err != nil {
				t.Fatal(err)
			}
			if says := strings.Contains(squeeze(explained.String()), "Replacement: "+tc.want); says != (tc.want != "") {
				t.Errorf("%s why says:\n%s\nwant %q", tc.reason, explained.String(), tc.want)
			}
		})
	}
}

// TestDryRunWithoutPlace warns that a replacement would have no room, before anything is cordoned.
func TestDryRunWithoutPlace(t *testing.T) {
	other := func(name string, edits ...func(*corev1.Node)) *corev1.Node {
		node := newNode(false)
		node.Name, node.UID = name, "node-of-"+node.UID
		node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("10")}
		for _, e := range edits {
			e(node)
		}
		return node
	}
	cpu := func(amount string) edit {
		return func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "agent", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}}}}
		}
	}
	on := func(node string) edit { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	}
	away := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	gone := func(n *corev1.Node) {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
	}
	const no = "Warning: voice/s: its replacement fits on no node at present: %; until one fits, the pod goes on serving\n"
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		want    string
	}{
		"None":  {reason: "There is no other node.", objects: []runtime.Object{newPod("s", cpu("1"))}, want: strings.Replace(no, "%", "there is no other node", 1)},
		"Fits":  {reason: "There is room.", objects: []runtime.Object{newPod("s", cpu("2")), other("node-2")}},
		"Taken": {reason: "Other pods' requests do not count.", objects: []runtime.Object{newPod("s", cpu("1500m")), other("node-2"), newPod("w", unguarded, cpu("1"), on("node-2"))}, want: strings.Replace(no, "%", "of 1 other node 1 with too little cpu left", 1)},
		"Each": {
			reason: "Each node has its reason.", objects: []runtime.Object{newPod("s", cpu("1"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"pool": "voice"} }), other("node-2", tainted), other("node-3", away), other("node-4", gone), other("node-5")},
			want: strings.Replace(no, "%", "of 4 other nodes 1 cordoned, 1 not ready, 1 outside its node selector or affinity, 1 with taint gpu", 1),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newDrainStage(t, tc.objects...)
			s.calls["s"] = 0
			common, _, errOut := newCommon()
			o := drainOptions{common: common, pace: pace, dryRun: true}
			if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
				t.Fatal(err)
			}
			if errOut.String() != tc.want {
				t.Errorf("%s It says %q; want %q", tc.reason, errOut, tc.want)
			}
			if cordoned(t, s) {
				t.Error("the node is cordoned")
			}
		})
	}
}
