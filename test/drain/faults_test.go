// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// withGuard gives the stage a guard with other flags until the test ends.
func withGuard(t *testing.T, args ...string) {
	t.Helper()
	if err := stage.Guard.Stop(); err != nil {
		t.Fatal(err)
	}
	startGuard(t, args...)
	t.Cleanup(func() {
		if err := stage.Guard.Stop(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		guard, err := stage.StartGuard(ctx, guardArgs()...)
		if err != nil {
			t.Error(err)
			return
		}
		stage.Guard = guard
		if err := guard.WaitReady(ctx); err != nil {
			t.Error(err)
		}
	})
}

// startGuard starts a guard that is the stage's from then on.
func startGuard(t *testing.T, args ...string) {
	t.Helper()
	guard, err := stage.StartGuard(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	stage.Guard = guard
	if err := guard.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// alone are flags with which a guard does not wait for the lease of a killed one.
func alone() []string { return append(guardArgs(), "--leader-elect=false") }

// TestGuardKilledAtEveryStep kills the guard after each step of a pod on its way out.
// Nothing goes wrong while it is dead, and afterwards the drain goes on.
func TestGuardKilledAtEveryStep(t *testing.T) {
	withGuard(t, alone()...)
	for _, step := range []call.State{call.Aside, call.Draining, call.Released} {
		t.Run(string(step), func(t *testing.T) {
			s := tell(t, 2)
			s.deploy(4)
			s.fill()
			leavers := s.pods(on(s.nodes[0]))
			s.hangUpOn(leavers[0])
			killed := make(chan error, 1)
			var once sync.Once
			s.watch.whenSeen(func(p *corev1.Pod) {
				if stateOf(p) == step {
					once.Do(func() { killed <- stage.Guard.Kill() })
				}
			})
			drain := s.drain(s.nodes[0])
			select {
			case err := <-killed:
				s.must(err)
			case <-time.After(inTime):
				t.Fatalf("no pod was ever %s: %s", step, s.watch.describe())
			}
			s.always(2*s1, "the busy talk", func() (bool, error) { return s.talking(), nil })
			s.there(leavers[1:]...)
			startGuard(t, alone()...)
			s.always(2*s1, "the busy talk", func() (bool, error) { return s.talking(), nil })
			s.hangUpOn(leavers...)
			s.ends(drain, inTime)
			s.eventually(inTime, "four pods are left", func() (bool, error) { return len(s.pods(all)) == 4 && s.watch.able() == 4, nil })
			s.bounds(8, 4)
			s.noneDropped()
		})
	}
}

// TestGuardKilledAtRandom kills the guard again and again while two nodes are drained and
// calls come and go.
func TestGuardKilledAtRandom(t *testing.T) {
	withGuard(t, alone()...)
	s := tell(t, 3)
	s.deploy(6)
	s.fill()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	drains := []*command{s.drain(s.nodes[0]), s.drain(s.nodes[1])}
	leavers := append(s.pods(on(s.nodes[0])), s.pods(on(s.nodes[1]))...)
	kills := 0
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); kills++ {
		life := time.NewTimer(time.Duration(dice.Int64N(int64(4 * time.Second))))
		<-life.C
		s.must(stage.Guard.Kill())
		var err error
		stage.Guard, err = stage.StartGuard(t.Context(), alone()...)
		s.must(err)
		if kills == 4 {
			s.hangUpOn(leavers[:len(leavers)/2]...)
		}
	}
	t.Logf("the guard was killed %d times", kills)
	s.must(stage.Guard.WaitReady(t.Context()))
	s.hangUpOn(leavers...)
	for _, drain := range drains {
		s.ends(drain, inTime)
	}
	s.bounds(12, 6)
	s.noneDropped()
}

// TestTwoGuards runs two guards that both believe they lead.
func TestTwoGuards(t *testing.T) {
	withGuard(t, alone()...)
	second, err := stage.StartGuard(t.Context(), alone()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := second.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := tell(t, 2)
	s.deploy(6)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) { return len(s.pods(leaving)) == len(leavers), nil })
	for _, pod := range leavers {
		s.hangUpOn(pod)
	}
	s.ends(drain, inTime)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=3")
	s.eventually(inTime, "three pods serve", func() (bool, error) { return len(s.pods(in(call.Serving))) == 3, nil })
	s.always(5*s1, "three pods serve", func() (bool, error) { return len(s.pods(in(call.Serving))) == 3 && s.talking(), nil })
	s.bounds(12, 3)
	s.noneDropped()
}

// TestAPIServerRestarts kills kube-apiserver in the middle of a drain.
func TestAPIServerRestarts(t *testing.T) {
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	s.hangUpOn(leavers[0])
	first := s.drain(s.nodes[0])
	s.eventually(inTime, "a pod is on its way", func() (bool, error) { return len(s.pods(leaving)) > 0, nil })
	s.must(stage.Cluster.Kill(t.Context(), local.APIServer))
	s.always(3*s1, "the busy talk", func() (bool, error) { return s.talking(), nil })
	s.must(stage.Cluster.Start(t.Context(), local.APIServer))
	s.gone(inTime, leavers[0])
	s.there(leavers[1:]...)
	s.hangUpOn(leavers...)
	s.eventually(inTime, "the drain has ended, or given up on a server that was not there", func() (bool, error) { return first.over(), nil })
	s.ends(s.drain(s.nodes[0]), inTime)
	s.eventually(inTime, "four pods can take calls", func() (bool, error) { return s.watch.able() == 4, nil })
	s.noneDropped()
}

// TestAPIServerHangs pauses kube-apiserver in the middle of a drain: connections and
// watches stay open and silent. The guard runs alone, because with a lease that it cannot
// renew it would stop leading, which TestFailover tests.
func TestAPIServerHangs(t *testing.T) {
	withGuard(t, alone()...)
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	s.hangUpOn(leavers[0])
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "a pod is on its way", func() (bool, error) { return len(s.pods(leaving)) > 0, nil })
	s.must(stage.Cluster.Pause(t.Context(), local.APIServer))
	s.always(12*s1, "the busy talk", func() (bool, error) { return s.talking(), nil })
	s.must(stage.Cluster.Continue(t.Context(), local.APIServer))
	s.gone(inTime, leavers[0])
	s.there(leavers[1:]...)
	s.hangUpOn(leavers...)
	s.ends(drain, inTime)
	s.eventually(inTime, "four pods can take calls", func() (bool, error) { return s.watch.able() == 4, nil })
	s.noneDropped()
}

// TestLiveKitDown kills LiveKit in the middle of a drain: an idle pod is not known to be
// idle until LiveKit is back.
func TestLiveKitDown(t *testing.T) {
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	s.hangUpOn(leavers...)
	livekit := local.LiveKitName(1)
	s.must(stage.Cluster.Kill(t.Context(), livekit))
	drain := s.drain(s.nodes[0])
	s.always(12*s1, "nobody is released", func() (bool, error) { return len(s.pods(in(call.Released))) == 0, nil })
	s.there(leavers...)
	s.must(stage.Cluster.Start(t.Context(), livekit))
	s.ends(drain, inTime)
	s.droppedOnlyBy(fleet.CauseLiveKit) // such calls are lost with or without Kubernetes
}

// TestWitnessHangs: an agent's own HTTP server does not answer. The pod is held until it
// does.
func TestWitnessHangs(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	leavers := s.pods(on(s.nodes[0]))
	if len(leavers) != 1 {
		t.Fatalf("%s has pods %v; want one", s.nodes[0], leavers)
	}
	s.does("annotate", "pod", leavers[0], fleet.WorkerAnnotation+"=hang")
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "it takes no new call", func() (bool, error) { return len(s.pods(in(call.Draining))) == 1, nil })
	s.event("Held")
	s.always(10*s1, "it is held", func() (bool, error) { return len(s.pods(in(call.Draining))) == 1, nil })
	s.waits(drain)
	s.does("annotate", "pod", leavers[0], fleet.WorkerAnnotation+"-")
	s.ends(drain, inTime)
	s.bounds(3, 2)
}
