// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func scaledPod(name, owner, safe string) *corev1.Pod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "voice", Name: name, Labels: map[string]string{"app": "agent"}, Annotations: map[string]string{}}}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Name: "x", Controller: &yes}}
	}
	if safe != "" {
		p.Annotations[safeToEvict] = safe
	}
	return p
}

// TestAutoscalerDecides uses the pods that the real one was tested with, see docs/node-autoscalers.md.
func TestAutoscalerDecides(t *testing.T) {
	locking := []policyv1.PodDisruptionBudget{{ObjectMeta: metav1.ObjectMeta{Namespace: "voice"}, Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}},
	}}}
	stored := scaledPod("stored", "ReplicaSet", "")
	stored.Spec.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	named := stored.DeepCopy()
	named.Annotations[safeToEvict+"-local-volumes"] = "other,tmp"
	for name, tc := range map[string]struct {
		pod     *corev1.Pod
		budgets []policyv1.PodDisruptionBudget
		want    fate
	}{
		"Guarded":    {scaledPod("a", "ReplicaSet", ""), locking, forbids},
		"Evictable":  {scaledPod("a", "ReplicaSet", "true"), locking, moves},
		"Aside":      {scaledPod("a", "Deployment", ""), nil, forbids},
		"AsideSays":  {scaledPod("a", "Deployment", "on-completion"), locking, lasts},
		"Unsafe":     {scaledPod("a", "ReplicaSet", "false"), nil, forbids},
		"Plain":      {scaledPod("a", "ReplicaSet", ""), nil, moves},
		"Bare":       {scaledPod("a", "", ""), nil, forbids},
		"Daemon":     {scaledPod("a", "DaemonSet", ""), locking, goes},
		"Stored":     {stored, nil, forbids},
		"StoredSays": {named, nil, moves},
	} {
		if got := fateOf(tc.pod, tc.budgets); got.fate != tc.want {
			t.Errorf("%s: a pod %s (%s, %s); want one that %s", name, got.fate, got.when, got.source, tc.want)
		}
	}
}

// TestAutoscalerNeedsNodes: nodes are unneeded jointly, and never those that their pods would have to move
// to.
func TestAutoscalerNeedsNodes(t *testing.T) {
	node := func(name string) corev1.Node { return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	pods := func(n int, safe string) (list []*corev1.Pod) {
		for range n {
			list = append(list, scaledPod("p", "ReplicaSet", safe))
		}
		return list
	}
	s := scene{nodes: []corev1.Node{node("a"), node("b"), node("c"), node("d")}, pods: map[string][]*corev1.Pod{
		"a": pods(2, "true"), "b": pods(2, "true"), "c": pods(3, "true"), "d": pods(2, "false"),
	}}
	got := s.unneeded(5, nil)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" { // c has room for two, d for three and stays itself
		t.Errorf("unneeded: -want, +got:\n%s", diff)
	}
	s.pods["d"] = pods(4, "false")
	if got := s.unneeded(5, nil); len(got) != 1 {
		t.Errorf("with room for three, of two nodes of two pods one may go: %v", got)
	}
}
