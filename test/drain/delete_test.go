// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

func cpus(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }

// TestImpatience tries everything with which people get rid of a pod. Each is refused or
// waits, and kubectl shows what to do instead.
func TestImpatience(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	s.fill()
	node := s.nodes[0]
	here, there := s.pods(on(node)), s.pods(on(s.nodes[1]))
	if len(here) != 1 || len(there) != 1 {
		t.Fatalf("%s has pods %v and %s has %v; want one each", node, here, s.nodes[1], there)
	}
	locked := func(pod string) string {
		return "pod " + pod + " may hold calls. Annotate it with callguard.dev/leave, or drain its node, and it goes after its last call;" +
			" to end its calls now, delete it as a member of group " + lab.BreakGlassGroup + "."
	}
	// Kubernetes itself answers evictions. It suggests nothing, because one can only wait.
	waits := []string{"pods/\"" + here[0] + "\"", "will retry after 5s", "Cannot evict pod as it would violate the pod's disruption budget", "global timeout reached: 7s"}
	for _, tc := range []struct {
		args string
		says []string
	}{
		{"delete pod " + here[0] + " --wait=false", []string{locked(here[0])}},
		{"delete pod " + here[0] + " --wait=false --grace-period=1", []string{locked(here[0])}},
		{"delete pod " + here[0] + " --wait=false --grace-period=0 --force", []string{locked(here[0])}},
		{"delete pods --all --wait=false --now", []string{locked(here[0]), locked(there[0])}},
		{"drain " + node + " --disable-eviction --timeout=7s", []string{locked(here[0])}},
		{"drain " + node + " --grace-period=1 --timeout=7s", waits},
		{"drain " + node + " --force --grace-period=0 --timeout=7s", waits},
	} {
		s.refused(tc.args, tc.says...)
	}
	s.there(append(here, there...)...)
	if !s.talking() {
		t.Errorf("calls ended: %+v", s.callers.Report())
	}
	// The node stays cordoned: the pod goes when its call is over, with its full grace
	// period, whatever the drain asks for.
	drain := s.drain(node, "--grace-period=1")
	s.hangUpOn(here...)
	s.ends(drain, inTime)

	// A released pod keeps its grace period. Until the guard deletes it, 10 s later,
	// anybody may.
	s.does("annotate", "pod", there[0], "callguard.dev/leave=please")
	s.hangUpOn(there...)
	s.eventually(inTime, there[0]+" may go", func() (bool, error) { return !s.watch.since(there[0], call.Released).IsZero(), nil })
	// Not by kubectl, which may take seconds to start: the test must be faster than the
	// guard.
	now := int64(1) // like kubectl's --now
	err := stage.Client.CoreV1().Pods(s.ns).Delete(t.Context(), there[0], metav1.DeleteOptions{GracePeriodSeconds: &now})
	keeps := "pod " + there[0] + " keeps its grace period of 120 seconds, in which its calls can end. Delete it without --grace-period, --now and --force."
	if err == nil || !strings.Contains(err.Error(), keeps) {
		t.Errorf("a pod that may go is deleted with a second of grace: %v; want %q", err, keeps)
	}
	s.does("delete", "pod", there[0], "--wait=false", "--ignore-not-found")
	s.gone(inTime, there...)
	s.noneDropped()
}

// refused runs kubectl, which must fail and print all of this.
func (s *story) refused(args string, says ...string) {
	s.t.Helper()
	out, err := s.kubectl(strings.Fields(args)...)
	if err == nil {
		s.t.Errorf("kubectl %s: %s; want an error", args, out)
	}
	for _, text := range says {
		if !strings.Contains(out, text) {
			s.t.Errorf("kubectl %s says %s; want %q", args, out, text)
		}
	}
}

// TestBreakGlass ends calls on purpose, by the commands in SECURITY.md: an administrator
// impersonates the group. Pods ended this way are reported and counted. Not even the
// group can end a call by an eviction.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.watch.unlocked()
	s.deploy(2)
	s.fill()
	here, there := s.pods(on(s.nodes[0])), s.pods(on(s.nodes[1]))
	if len(here) != 1 || len(there) != 1 {
		t.Fatalf("%s has pods %v and %s has %v; want one each", s.nodes[0], here, s.nodes[1], there)
	}
	before := s.deletedWhileLocked()
	breaker := []string{"--as=ana", "--as-group=" + lab.BreakGlassGroup, "--as-group=system:masters"}
	drain := append([]string{"drain", s.nodes[0], "--ignore-daemonsets", "--delete-emptydir-data", "--grace-period=1"}, breaker...)

	s.refused(strings.Join(append(drain, "--timeout=7s"), " "), "Cannot evict pod as it would violate the pod's disruption budget")
	s.there(append(here, there...)...)
	s.noneDropped()

	s.ends(s.start(append(drain, "--disable-eviction", "--timeout=5m")...), inTime)
	s.gone(inTime, here...)
	s.does(append([]string{"delete", "pod", there[0], "--grace-period=1"}, breaker...)...)
	for _, pod := range append(here, there...) {
		s.told(s.ns, "Pod", pod, "DeletedWhileLocked", "by the break-glass group, or by Kubernetes because its node is gone")
	}
	if is := s.deletedWhileLocked(); is < before+2 { // other stories delete namespaces
		t.Errorf("%v deletions are counted, before these two it was %v", is, before)
	}
	s.eventually(soon, "both calls are over", func() (bool, error) { return len(s.callers.Report().Dropped) == 2, nil })
	s.droppedOnlyBy(fleet.CauseGrace)
}

// deletedWhileLocked returns the guard's count of locked pods that were deleted.
func (s *story) deletedWhileLocked() float64 {
	s.t.Helper()
	metrics, err := stage.Guard.Metrics(s.t.Context())
	s.must(err)
	return metrics.Sum("callguard_deletions_while_locked_total")
}

// TestDeleteDeployment deletes the Deployment of agents with calls. The pods stay until
// their calls are over, and then leave.
func TestDeleteDeployment(t *testing.T) {
	t.Parallel()
	for _, cascade := range []string{"background", "foreground"} {
		t.Run(cascade, func(t *testing.T) {
			t.Parallel()
			s := tell(t, 1)
			s.deploy(2)
			s.fill()
			pods := s.pods(all)
			s.does("delete", "deployment", lab.AgentName, "--cascade="+cascade, "--wait=false")
			s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return len(s.pods(leaving)) == 2, nil })
			s.there(pods...)
			if !s.talking() {
				t.Errorf("calls ended: %+v", s.callers.Report())
			}
			for _, pod := range pods {
				s.hangUpOn(pod)
				s.gone(inTime, pod)
			}
			s.eventually(inTime, "the Deployment is gone", func() (bool, error) {
				_, err := stage.Client.AppsV1().Deployments(s.ns).Get(t.Context(), lab.AgentName, metav1.GetOptions{})
				return apierrors.IsNotFound(err), nil
			})
			s.bounds(2, 0)
			s.noneDropped()
		})
	}
}

// TestDeleteDeploymentOrphan leaves the ReplicaSet behind. Its pods should not leave,
// except one that was already aside: it has no owner left.
func TestDeleteDeploymentOrphan(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(3)
	s.fill()
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=2")
	s.eventually(inTime, "one pod leaves", func() (bool, error) { return len(s.pods(leaving)) == 1, nil })
	leaver := s.pods(leaving)
	s.does("delete", "deployment", lab.AgentName, "--cascade=orphan")
	s.always(10*s1, "three callers talk", func() (bool, error) { return s.talking() && len(s.pods(all)) == 3 && s.watch.able() == 2, nil })
	s.hangUpOn(leaver...)
	s.gone(inTime, leaver...)
	s.does("delete", "replicaset", "--all", "--wait=false")
	s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return len(s.pods(leaving)) == 2, nil })
	s.hangUpAll()
	s.eventually(inTime, "no pod is left", func() (bool, error) { return len(s.pods(all)) == 0, nil })
	s.noneDropped()
}

// TestTaint has Kubernetes evict pods by a NoExecute taint, which no budget stops.
func TestTaint(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(2)
	s.fill()
	pods := s.pods(all)
	s.does("taint", "node", s.nodes[0], "out=now:NoExecute")
	s.always(10*s1, "both callers talk", func() (bool, error) { return s.talking(), nil })
	s.there(pods...)
	s.noneDropped()
}

// TestOperatorsWish: one pod leaves because an operator annotates it.
func TestOperatorsWish(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	s.fill()
	leaver := s.pods(all)[0]
	s.does("annotate", "pod", leaver, "callguard.dev/leave=please")
	s.eventually(inTime, "it takes no new call", func() (bool, error) { return len(s.pods(leaving)) == 1, nil })
	s.there(leaver)
	s.hangUpOn(leaver)
	s.gone(inTime, leaver)
	s.bounds(3, 2)
	s.noneDropped()
}

// TestDeleteNamespace works with agents that have calls: the kubelet ends them within
// their grace period, which callguard does not extend.
func TestDeleteNamespace(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(2)
	s.fill()
	s.watch.unlocked()
	s.does("delete", "namespace", s.ns, "--wait=false")
	s.eventually(soon, "both agents were asked to end", func() (bool, error) {
		for _, a := range s.agents() {
			if !a.Draining {
				return false, nil
			}
		}
		return len(s.agents()) == 2, nil
	})
	s.hangUpAll()
	s.eventually(inTime, "the namespace is gone", func() (bool, error) {
		_, err := stage.Client.CoreV1().Namespaces().Get(t.Context(), s.ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	s.noneDropped()
}
