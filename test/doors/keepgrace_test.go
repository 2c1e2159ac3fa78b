// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// server is a pod that is not guarded and keeps its grace period, like LiveKit's.
func server(name string, grace int64) *corev1.Pod {
	pod := agentPod(name)
	delete(pod.Labels, call.GuardedLabel)
	pod.Labels[call.KeepGraceLabel] = "true"
	pod.Spec.PriorityClassName = ""
	pod.Spec.TerminationGracePeriodSeconds = &grace
	return pod
}

// away creates such a pod on a node that nothing simulates, so that it keeps running when it is deleted, like a LiveKit with
// rooms.
func away(t *testing.T, namespace, name string) {
	t.Helper()
	pod := server(name, 600)
	pod.Spec.SchedulerName, pod.Spec.NodeName = "nobody", "nowhere"
	create(t, namespace, pod)
	kubeletReports(t, namespace, name, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, Image: pod.Spec.Containers[0].Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
}

// TestKeepGrace: only the exempt can shorten the grace period of a pod with label keep-grace, by deletion or eviction; nothing
// else about it is protected.
func TestKeepGrace(t *testing.T) {
	const refused = "callguard-keep-grace: pod %s keeps its grace period of %d seconds, in which it finishes what it carries"
	ns := enabled(t, "keep-grace")
	elsewhere := namespace(t, "keep-grace-elsewhere", nil)
	shorter := int64(300)
	for name, grace := range map[string]int64{"runs": 600, "ended": 600, "long": 1000000} {
		create(t, ns, server(name, grace))
	}
	away(t, ns, "goes")
	away(t, ns, "shortened")
	create(t, elsewhere, server("runs", 600))
	other := server("other", 600)
	delete(other.Labels, call.KeepGraceLabel)
	create(t, ns, other)
	kubeletReports(t, ns, "ended", ended)
	trial.Must(t, stage.admin.CoreV1().Pods(ns).Delete(t.Context(), "goes", metav1.DeleteOptions{}))
	trial.Must(t, stage.as(breakGlass()).CoreV1().Pods(ns).Delete(t.Context(), "shortened", metav1.DeleteOptions{GracePeriodSeconds: &shorter}))

	seconds := func(n int64) *int64 { return &n }
	graces := []*int64{nil, seconds(0), seconds(1), seconds(299), seconds(300), seconds(600), seconds(86399), seconds(86400)}
	for name, tc := range map[string]struct {
		reason    string
		namespace string
		least     int64 // the shortest that is allowed; 0: any
	}{
		"runs":      {reason: "It has rooms.", least: 600},
		"goes":      {reason: "It already ends, with its grace period.", least: 600},
		"shortened": {reason: "A grace period that somebody exempt has shortened stays short.", least: 300},
		"long":      {reason: "At most a day of grace period is kept.", least: 86400},
		"ended":     {reason: "Its containers have ended."},
		"other":     {reason: "It has no such label."},
		"elsewhere": {reason: "Policies apply in enabled namespaces only.", namespace: elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			pod, where := name, ns
			if tc.namespace != "" {
				pod, where = "runs", tc.namespace
			}
			for _, id := range everybody() {
				if isOneOf(id, guard()) {
					continue // it deletes only guarded pods (TestLeash)
				}
				own := id
				if id.user == kubelet().user {
					own.user = "system:node:" + get(t, where, pod).Spec.NodeName
				}
				exempt := isOneOf(id, breakGlass(), namespaces(), podCollector(), kubelet())
				for _, g := range graces {
					want := allowed
					if g != nil && *g < tc.least && !exempt {
						want = fmt.Sprintf(refused, pod, tc.least)
					}
					err := stage.as(own).CoreV1().Pods(where).Delete(t.Context(), pod, metav1.DeleteOptions{DryRun: dry(), GracePeriodSeconds: g})
					expect(t, fmt.Sprintf("%s %s deletes pod %s with grace %v", tc.reason, id.name, pod, g), want, err)
				}
			}
		})
	}

	// An eviction is allowed at once, because nothing protects the pod, and keeps its grace period.
	short, want := int64(3), int64(600)
	if !stage.keepsGraces {
		want = short
	}
	trial.Must(t, evict(t, admin(), ns, "runs", metav1.DeleteOptions{GracePeriodSeconds: &short}))
	if pod := get(t, ns, "runs"); pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds != want {
		t.Errorf("pod runs ends at %v with grace period %v, want %d", pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds, want)
	}
}
