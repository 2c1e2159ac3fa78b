// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// TestPriority creates pods with callguard's PriorityClass, by which they preempt others.
func TestPriority(t *testing.T) {
	ctx := t.Context()
	here, elsewhere := enabled(t, "priority"), namespace(t, "priority-elsewhere", nil)
	const (
		guardedOnly = "callguard-priority: PriorityClass callguard-calls is for guarded pods, which it lets preempt others: give the pod template label callguard.dev/guarded=true, or take the class out of it"
		enabledOnly = "callguard-priority: PriorityClass callguard-calls is for enabled namespaces, and nothing holds the calls of this one. An administrator enables it: kubectl label namespace priority-elsewhere callguard.dev/enabled=true"
	)
	unguarded := func(p *corev1.Pod) { delete(p.Labels, call.GuardedLabel) }
	classless := func(p *corev1.Pod) { p.Spec.PriorityClassName = "" }
	cases := map[string]struct {
		reason, namespace string
		change            []func(*corev1.Pod)
		want              string
	}{
		"Guarded":            {reason: "It is for guarded pods.", namespace: here, want: allowed},
		"Unguarded":          {reason: "It holds no calls.", namespace: here, change: []func(*corev1.Pod){unguarded}, want: guardedOnly},
		"GuardedOtherwise":   {reason: "Only this value makes a pod guarded.", namespace: here, change: []func(*corev1.Pod){func(p *corev1.Pod) { p.Labels[call.GuardedLabel] = "True" }}, want: guardedOnly},
		"UnguardedClassless": {reason: "Other pods are not affected.", namespace: here, change: []func(*corev1.Pod){unguarded, classless}, want: allowed},
		"Elsewhere":          {reason: "Nothing protects it there.", namespace: elsewhere, want: enabledOnly},
		"ElsewhereUnguarded": {reason: "Nor is it guarded.", namespace: elsewhere, change: []func(*corev1.Pod){unguarded}, want: guardedOnly},
		"ElsewhereClassless": {reason: "It does not apply where callguard is not enabled.", namespace: elsewhere, change: []func(*corev1.Pod){classless}, want: allowed},
	}
	born := func(namespace string, pod *corev1.Pod) error {
		_, err := stage.as(editor()).CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: dry()})
		return err
	}
	trial.Must(t, eventually(ctx, "the policy is in force", func() (bool, error) { return born(elsewhere, agentPod("newborn")) != nil, nil }))
	for name, tc := range cases {
		pod := agentPod("newborn")
		for _, change := range tc.change {
			change(pod)
		}
		expect(t, name+": "+tc.reason, tc.want, born(tc.namespace, pod))
	}

	_, err := stage.admin.CoreV1().Namespaces().Patch(ctx, elsewhere, types.MergePatchType, []byte(`{"metadata":{"annotations":{"callguard.dev/disable":"true"}}}`), metav1.PatchOptions{})
	trial.Must(t, err)
	trial.Must(t, eventually(ctx, "where callguard was disabled on purpose, guarded pods go on being born", func() (bool, error) {
		err := born(elsewhere, agentPod("newborn"))
		return err == nil, err
	}))
}
