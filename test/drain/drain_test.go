// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	settle       = 20 * time.Second // the guard's default
	kubectlRetry = 5 * time.Second
	// settleLate is how much later than that an idle pod may be released: its witnesses have
	// to be read after it, LiveKit every 3 s, and are asked once more.
	settleLate = 6 * time.Second
	// goneLate is how long a pod takes from its eviction until it is gone. The guard would
	// delete it itself 10 s after its release, which must not be necessary.
	goneLate = 3 * time.Second
	// lastCall is the limit from the end of a node's last call to the end of its drain. An
	// idle machine takes 3.6 to 8.7 s, depending on where in its pauses kubectl is; at their
	// worst, these and LiveKit's next reading alone add up to 10.2 s. So the faster of two
	// drains has to meet it, and the parts of each have limits, with their own pauses and
	// room for a slow machine: the release within releaseLate, the pod's end as for an idle
	// pod, and kubectl's check, once a second, within endLate.
	lastCall    = 10 * time.Second
	releaseLate = settleLate
	endLate     = 3 * time.Second
	deafCalls   = 8 // of the 16 that callers of deaf agents make
)

// TestDrain drains two nodes at once, with the guard's own settings: the idle pod of each
// leaves, the busy one stays until its call is over.
func TestDrain(t *testing.T) {
	withGuard(t)
	s := tell(t, 4)
	s.deploy(8)
	s.fill()
	first, second := s.nodes[0], s.nodes[1]
	idle, busy := map[string]string{}, map[string]string{}
	for _, node := range []string{first, second} {
		pods := s.pods(on(node))
		if len(pods) < 2 {
			t.Fatalf("%s has pods %v; want two or more", node, pods)
		}
		idle[node], busy[node] = pods[0], pods[1]
		s.hangUpOn(pods[0])
		s.hangUpOn(pods[2:]...)
	}

	drains := map[string]*command{first: s.drain(first), second: s.drain(second)}
	s.eventually(inTime, "replacements run and nobody on the two nodes takes new calls", func() (bool, error) {
		// A replacement may be put on the second node before that is cordoned, and leaves as
		// well.
		stays := s.pods(func(p *corev1.Pod) bool { return (on(first)(p) || on(second)(p)) && !leaving(p) })
		return shown(s.watch.able() == 8 && len(stays) == 0, s.watch.describe())
	})
	s.gone(settle+kubectlRetry+soon, idle[first], idle[second])
	for _, pod := range []string{idle[first], idle[second]} {
		released := s.watch.since(pod, call.Released)
		settled, left := released.Sub(s.watch.since(pod, call.Draining)), s.watch.since(pod, gone).Sub(released)
		t.Logf("idle pod %s was released %.1f s after it took no new call, and gone %.1f s later", pod, settled.Seconds(), left.Seconds())
		if settled < settle-s1 || settled > settle+settleLate {
			t.Errorf("idle pod %s was released %s after it took no new call; want %s, and at most %s more", pod, settled, settle, settleLate)
		}
		if left > kubectlRetry+goneLate {
			t.Errorf("idle pod %s was gone %s after its release; want it at kubectl's next try, within %s", pod, left, kubectlRetry+goneLate)
		}
	}
	s.bounds(16, 8)
	s.there(busy[first], busy[second])
	for _, reason := range []string{"Held", "Released"} {
		s.event(reason)
	}

	quickest := time.Hour
	for node, drain := range drains {
		s.waits(drain)
		s.hangUpOn(busy[node])
		last := time.Now()
		s.ends(drain, inTime)
		s.gone(soon, busy[node])
		quickest = min(quickest, drain.ended.Sub(last))
		released, left := s.watch.since(busy[node], call.Released), s.watch.since(busy[node], gone)
		t.Logf("the drain of %s ended %.1f s after its last call, of %.0f s that are asked for: its pod was released after %.1f s and gone %.1f s later, and kubectl ended %.1f s after that",
			node, drain.ended.Sub(last).Seconds(), lastCall.Seconds(), released.Sub(last).Seconds(), left.Sub(released).Seconds(), drain.ended.Sub(left).Seconds())
		for _, part := range []struct {
			what       string
			took, most time.Duration
		}{
			{"last call → released", released.Sub(last), releaseLate},
			{"released → gone", left.Sub(released), kubectlRetry + goneLate},
			{"gone → kubectl ends", drain.ended.Sub(left), endLate},
		} {
			if part.took > part.most {
				t.Errorf("the drain of %s, %s: %s; want at most %s", node, part.what, part.took, part.most)
			}
		}
	}
	if quickest > lastCall {
		t.Errorf("no drain ended within %s of its node's last call; the quicker took %s", lastCall, quickest)
	}
	s.noneDropped()
	s.bounds(16, 8)
}

// TestDrainCancelled uncordons a node in the middle of its drain. What has begun
// continues: the replacement stays, the old pod finishes and leaves.
func TestDrainCancelled(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	drain := s.drain(s.nodes[0], "--timeout=20s")
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) { return len(s.pods(leaving)) == len(leavers), nil })
	s.does("uncordon", s.nodes[0])
	s.eventually(soon, "kubectl drain has given up", func() (bool, error) { return drain.over(), nil })
	s.there(leavers...)
	s.dial(len(leavers)) // the replacements take them
	s.hangUpOn(leavers...)
	s.gone(inTime, leavers...)
	s.bounds(8, 4)
	s.noneDropped()
}

// TestDrainOfTheOnlyReplica: no other pod can take calls, so the replacement comes first.
func TestDrainOfTheOnlyReplica(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(1)
	s.fill()
	only := s.pods(all)
	node := s.nodes[0]
	if len(s.pods(on(node))) == 0 {
		node = s.nodes[1]
	}
	drain := s.drain(node)
	s.eventually(inTime, "the only pod takes no new call", func() (bool, error) { return len(s.pods(leaving)) == 1, nil })
	s.dial(1)
	s.waits(drain)
	s.hangUpOn(only...)
	s.ends(drain, inTime)
	s.bounds(2, 1)
	s.noneDropped()
}

// TestDrainOfAStatefulSet replaces each pod in place, after its call.
func TestDrainOfAStatefulSet(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.stateful(2)
	s.fill()
	node := s.nodes[0]
	leavers := s.pods(on(node))
	if len(leavers) != 1 {
		t.Fatalf("%s has pods %v; want one", node, leavers)
	}
	drain := s.drain(node)
	s.eventually(inTime, "its pod takes no new call", func() (bool, error) { return len(s.pods(leaving)) == 1, nil })
	s.waits(drain)
	s.hangUpOn(leavers...)
	s.ends(drain, inTime)
	s.eventually(inTime, "the pod is back elsewhere", func() (bool, error) { return s.watch.able() == 2 && len(s.pods(on(node))) == 0, nil })
	s.bounds(2, 1)
	s.noneDropped()
}

// TestDrainOfDeafAgents drains agents that ignore the draining mark while calls come and
// go. Calls that they still accept end within the grace period.
func TestDrainOfDeafAgents(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations[fleet.DeafAnnotation] = "true"
		d.Spec.Template.Annotations[fleet.MaxJobsAnnotation] = "5"
	})
	plan := make(chan error, 1)
	go func() {
		plan <- s.callers.Play(t.Context(), fleet.Plan{
			Rooms: s.rooms, Rate: 0.5, For: 30 * time.Second, Length: 5 * time.Second, Dial: fleet.DialOptions{AgentName: s.ns},
		})
	}()
	leavers := s.pods(on(s.nodes[0]))
	s.ends(s.drain(s.nodes[0]), 2*time.Minute)
	s.gone(soon, leavers...)
	s.must(<-plan)
	if r := s.callers.Report(); r.Answered < deafCalls {
		t.Errorf("%d of %d calls were answered; want at least %d, else there is nothing to drop", r.Answered, r.Dialled, deafCalls)
	}
	s.bounds(8, 4)
	s.noneDropped()
}

// TestCordonThatIsTolerated: replacements are put on the very node that is cordoned. They
// stay: none of them is replaced again.
func TestCordonThatIsTolerated(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(4, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}}
	})
	s.fill()
	old := s.pods(all)
	s.does("cordon", s.nodes[0])
	s.eventually(inTime, "the old pods take no new call", func() (bool, error) { return len(s.pods(leaving)) == 4 && s.watch.able() == 4, nil })
	s.always(10*time.Second, "there are eight pods", func() (bool, error) { return len(s.pods(all)) == 8, nil })
	s.hangUpOn(old...)
	s.gone(inTime, old...)
	s.always(5*time.Second, "there are four pods", func() (bool, error) { return len(s.pods(all)) == 4, nil })
	s.bounds(8, 4)
	s.noneDropped()
}

// TestDrainWithoutRoom: a quota admits no replacement. The pod keeps serving until there
// is room.
func TestDrainWithoutRoom(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "full"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}},
	}
	_, err := stage.Client.CoreV1().ResourceQuotas(s.ns).Create(t.Context(), quota, metav1.CreateOptions{})
	s.must(err)
	s.eventually(soon, "the quota is full", func() (bool, error) {
		q, err := stage.Client.CoreV1().ResourceQuotas(s.ns).Get(t.Context(), "full", metav1.GetOptions{})
		return err == nil && q.Status.Used.Pods().Value() == 2, err
	})
	node := s.nodes[0]
	leavers := s.pods(on(node))
	drain := s.drain(node)
	s.eventually(inTime, "a pod is aside", func() (bool, error) { return len(s.pods(in(call.Aside))) > 0, nil })
	s.event("Held")
	s.always(8*time.Second, "both pods take calls", func() (bool, error) { return s.watch.able() == 2, nil })
	s.fill()
	s.waits(drain)
	_, err = stage.Client.CoreV1().ResourceQuotas(s.ns).Patch(t.Context(), "full", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"10"}}}`), metav1.PatchOptions{})
	s.must(err)
	// The ReplicaSet retries with a delay that doubles each time.
	s.eventually(2*inTime, "the pod of the node takes no new call", func() (bool, error) { return len(s.pods(leaving)) == len(leavers), nil })
	s.hangUpOn(leavers...)
	s.ends(drain, inTime)
	s.bounds(4, 2)
	s.noneDropped()
}

// TestSecondBudget: another PodDisruptionBudget selects guarded pods, so evictions fail
// with 500. It is named, and nothing is lost.
func TestSecondBudget(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(1)
	s.fill()
	_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "second"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.eventually(inTime, "the guard counts the other budget", func() (bool, error) {
		m, err := stage.Guard.Metrics(t.Context())
		return err == nil && m.Sum("callguard_foreign_budgets") > 0, err
	})
	s.noneDropped()
}
