// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// listLeaving is the command in the chart's README.md that finds pods that are aside or
// draining.
func listLeaving() []string {
	return []string{
		"get", "pods", "-l", call.GuardedLabel + "=true", "--no-headers", "-o",
		`custom-columns=NS:.metadata.namespace,NAME:.metadata.name,ASIDE:.metadata.annotations.callguard\.dev/aside,DRAINING:.metadata.annotations.callguard\.dev/draining`,
	}
}

// TestUnlockLeavesTheGrace unlocks while two pods with calls are aside and their
// Deployment has zero replicas. Their ReplicaSet, which gets them back, deletes both. The
// caller who hangs up within the grace period loses nothing, and the other one is cut off
// at its end and not before.
func TestUnlockLeavesTheGrace(t *testing.T) {
	const grace = 20
	withGuard(t, guardArgs()...)
	s := tell(t, 1)
	s.deploy(2, func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(grace)) })
	s.fill()
	talking := s.pods(all)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=0")
	s.eventually(inTime, "both take no new call", func() (bool, error) { return len(s.pods(in(call.Draining))) == 2, nil })
	s.must(stage.Guard.Stop())
	s.watch.unlocked()
	out, err := s.kubectl(listLeaving()...)
	s.must(err)
	for line := range strings.Lines(out) {
		if strings.Contains(line, "<none>") || !slices.ContainsFunc(talking, func(pod string) bool { return strings.Contains(line, " "+pod+" ") }) {
			t.Errorf("of pods that are aside and draining the list says %q", line)
		}
	}

	said, err := stage.Unlock(t.Context())
	s.must(err)
	t.Logf("unlock says: %s", strings.TrimSpace(said))
	if command := "kubectl delete pod --ignore-not-found -n " + s.ns + " " + strings.Join(talking, " "); !strings.Contains(said, command) {
		t.Errorf("unlock does not say %q", command)
	}
	s.eventually(soon, "their ReplicaSet deletes both", func() (bool, error) {
		return len(s.pods(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })) == 2, nil
	})
	list, err := stage.Client.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	s.must(err)
	ends := map[string]time.Time{}
	for _, pod := range list.Items {
		if got := pod.DeletionGracePeriodSeconds; got == nil || *got != grace {
			t.Errorf("pod %s has a grace of %v s; want its own, %d", pod.Name, got, grace)
		}
		if cost, ok := pod.Annotations[corev1.PodDeletionCost]; ok {
			t.Errorf("pod %s is to be deleted first still: its cost is %s", pod.Name, cost)
		}
		ends[pod.Name] = pod.DeletionTimestamp.Time
	}
	if !s.talking() {
		t.Errorf("calls ended with the unlock: %+v", s.callers.Report())
	}
	s.hangUpOn(talking[0])
	s.eventually(grace*time.Second+soon, "the other caller is cut", func() (bool, error) { return len(s.callers.Report().Dropped) == 1, nil })
	lost := s.callers.Report().Dropped[0]
	if lost.Cause != fleet.CauseGrace || lost.Pod.Name != talking[1] || lost.At.Before(ends[talking[1]]) {
		t.Errorf("lost: %s of pod %s at %s; want %s of pod %s, not before %s",
			lost.Cause, lost.Pod.Name, lost.At, fleet.CauseGrace, talking[1], ends[talking[1]])
	}
}

// TestOptInOfTalkingPods follows docs/opt-in.md for a workload that already runs: its
// pods get the label, then the namespace is enabled, and the rollout that opts the
// workload in waits for their calls.
func TestOptInOfTalkingPods(t *testing.T) {
	t.Parallel()
	s := begin(t, 2, false)
	d := lab.Agent(s.ns, 2)
	d.Spec.Template = s.template()
	delete(d.Spec.Template.Labels, call.GuardedLabel)
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), d, metav1.CreateOptions{})
	s.must(err)
	s.eventually(inTime, "the pods are there", func() (bool, error) { return s.watch.able() == 2, nil })
	s.does("label", "pods", "-l", "app="+lab.AgentName, call.GuardedLabel+"=true")
	s.steady(2)
	s.fill()
	before := s.pods(all)

	s.does("label", "namespace", s.ns, call.EnabledLabel+"=true")
	s.eventually(soon, "the budget is there", func() (bool, error) {
		_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Get(t.Context(), budgetName, metav1.GetOptions{})
		return err == nil, err
	})
	s.watch.locked()
	s.does("patch", "deployment", lab.AgentName, "-p", `{"spec": {"template": {"metadata": {"labels": {"callguard.dev/guarded": "true"}}}}}`)
	s.does("rollout", "status", "deployment/"+lab.AgentName, "--timeout=90s")
	s.eventually(inTime, "the pods of before take no new call", func() (bool, error) { return len(s.pods(in(call.Draining))) == 2, nil })
	s.there(before...)
	s.hangUpOn(before...)
	s.gone(inTime, before...)
	s.noneDropped()
}

// locked waits until the policies protect the pods.
func (w *watch) locked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = false
}
