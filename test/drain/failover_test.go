// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/test/lab"
)

// How long there may be no leader after one was killed or ended properly: 10 s and 5 s,
// and a few seconds more on a busy machine.
const (
	afterKill = 10*time.Second + 3*time.Second
	afterStop = 5*time.Second + 3*time.Second
)

// leader is the name of the process that holds the lease.
func (s *story) leader() (string, error) {
	lease, err := stage.Client.CoordinationV1().Leases(lab.GuardNamespace).Get(s.t.Context(), leader.LeaseName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return ptr.Deref(lease.Spec.HolderIdentity, ""), nil
}

// leads waits until another process leads than before, and returns its name.
func (s *story) leads(within time.Duration, before string) (name string) {
	s.t.Helper()
	began := time.Now()
	s.eventually(within, "another guard leads than "+before, func() (bool, error) {
		var err error
		name, err = s.leader()
		return name != "" && name != before, err
	})
	s.t.Logf("%s leads after %.1f s", name, time.Since(began).Seconds())
	return name
}

// standBy starts one more guard that is ready to lead.
func standBy(t *testing.T) *lab.Guard {
	t.Helper()
	g, err := stage.StartGuard(t.Context(), guardArgs()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestFailover runs guards as installed, one leader and one standby, in the middle of a
// drain. The leader is killed. The next one loses its lease without knowing, and later
// leads again. Whichever leads continues the drain.
func TestFailover(t *testing.T) {
	first := stage.Guard
	s := tell(t, 2)
	s.deploy(6)
	s.fill()
	node := s.nodes[0]
	leavers := s.pods(on(node))
	if len(leavers) < 3 {
		t.Fatalf("%s has pods %v; want three or more", node, leavers)
	}
	firstName, err := s.leader()
	s.must(err)
	second := standBy(t)
	t.Cleanup(func() { // the next story needs a guard, however this one ends
		stage.Guard = second
		if err := second.Continue(); err != nil {
			t.Error(err)
		}
	})
	drain := s.drain(node)
	s.eventually(inTime, "a pod takes no new call", func() (bool, error) { return len(s.pods(leaving)) > 0, nil })

	s.must(first.Kill())
	stage.Guard = second
	s.hangUpOn(leavers[0])
	secondName := s.leads(afterKill, firstName)
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) {
		return len(s.pods(func(p *corev1.Pod) bool { return on(node)(p) && !leaving(p) })) == 0, nil
	})
	s.gone(inTime, leavers[0])
	s.there(leavers[1:]...)

	third := standBy(t)
	s.must(second.Pause())
	s.hangUpOn(leavers[1])
	thirdName := s.leads(afterKill, secondName)
	s.gone(inTime, leavers[1])
	s.must(second.Continue()) // for a moment it believes that it leads
	s.always(5*s1, "the third leads, and the busy talk", func() (bool, error) {
		name, err := s.leader()
		return name == thirdName && s.talking(), err
	})
	s.there(leavers[2:]...)

	s.must(third.Stop()) // a leader that ends properly releases its lease
	if name := s.leads(afterStop, thirdName); name != secondName {
		t.Errorf("%s leads; want %s, which had lost its lease and stood by", name, secondName)
	}
	s.waits(drain)
	s.hangUpOn(leavers[2:]...)
	s.ends(drain, inTime)
	s.eventually(inTime, "six pods are left", func() (bool, error) { return len(s.pods(all)) == 6 && len(s.pods(in(call.Serving))) == 6, nil })
	s.bounds(12, 6)
	s.noneDropped()
}
