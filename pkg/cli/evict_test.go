// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
)

// asks counts the requests of a stage.
func (s *stage) asks() *atomic.Int64 {
	n := &atomic.Int64{}
	s.fake.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		n.Add(1)
		return false, nil, nil
	})
	get := s.cluster.get
	s.cluster.get = func(ctx context.Context, path string, into any) error {
		n.Add(1)
		return get(ctx, path, into)
	}
	return n
}

// TestDrainAsksLittle drains a node of 30 pods that all hold calls, for ten minutes, at a
// drain's usual pace, with a simulated clock.
func TestDrainAsksLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pods []runtime.Object
		for i := range 28 {
			pods = append(pods, newPod(fmt.Sprint("p", i), draining))
		}
		s := newDrainStage(t, pods...)
		s.cluster.now = time.Now
		for i := range 28 {
			s.calls[fmt.Sprint("p", i)] = 3
		}
		s.ends = map[string]int64{"0.5": 3000, "0.9": 6000}
		(&evictions{answer: func(string, int) error { return tooMany() }}).on(s)
		asked := s.asks()
		common, _, _ := newCommon()
		const lasts = 10 * time.Minute
		o := drainOptions{common: common, pace: drainPace, leaderPace: leaderPace, timeout: lasts, ignoreDaemonSets: true}
		began := time.Now()
		if err := o.run(t.Context(), s.cluster, "node-1"); !errors.Is(err, errWaiting) {
			t.Fatalf("it ends with %v", err)
		}
		took := time.Since(began)
		perSecond := float64(asked.Load()) / took.Seconds()
		t.Logf("%d requests in %s, %.1f a second", asked.Load(), took, perSecond)
		if perSecond >= 5 || took < lasts {
			t.Errorf("%d requests in %s, %.1f a second; want fewer than 5", asked.Load(), took, perSecond)
		}
	})
}

// TestReleasedPodsGoFirst: a released pod is evicted with the next check, however many other
// evictions are tried in turn.
func TestReleasedPodsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pods []runtime.Object
		for i := range 28 {
			pods = append(pods, newPod(fmt.Sprintf("p%02d", i), draining))
		}
		s := newDrainStage(t, pods...)
		began, freed := time.Now(), time.Time{}
		(&evictions{answer: func(pod string, _ int) error {
			is, err := s.fake.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), voice, pod)
			if held, _ := is.(*corev1.Pod); err != nil || !call.IsReleased(held.Labels) {
				return tooMany()
			}
			if late := time.Since(freed); late > 2*drainPace {
				t.Errorf("pod %s is evicted %s after it was released", pod, late)
			}
			return nil
		}}).on(s)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			time.Sleep(time.Minute)
			freed = time.Now()
			pod := newPod("p17", draining, released(call.NodeDrain))
			if err := s.fake.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, voice); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			cancel()
		}()
		common, out, _ := newCommon()
		o := drainOptions{common: common, pace: drainPace, leaderPace: leaderPace, ignoreDaemonSets: true}
		if err := o.run(ctx, s.cluster, "node-1"); !errors.Is(err, errWaiting) {
			t.Fatalf("it ends with %v", err)
		}
		if !strings.Contains(out.String(), "voice/p17: gone\n") || time.Since(began) != 2*time.Minute {
			t.Errorf("after %s it says:\n%s", time.Since(began), out)
		}
	})
}

// TestDrainOutlivesTheAPI: a short outage of the API server ends no drain.
func TestDrainOutlivesTheAPI(t *testing.T) {
	s := newDrainStage(t)
	(&evictions{answer: func(pod string, n int) error {
		if n < 3 {
			return apierrors.NewServiceUnavailable("etcd has no leader")
		}
		return nil
	}}).on(s)
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace}
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	if want := "voice/a cannot be evicted yet, and is tried again: "; strings.Count(out.String(), want) != 1 || !strings.Contains(out.String(), "node/node-1 drained") {
		t.Errorf("it does not say once %q:\n%s", want, out)
	}
}

// TestParallel drains two nodes one after the other: the second is cordoned when the first
// is empty.
func TestParallel(t *testing.T) {
	second := newNode(false)
	second.Name, second.UID = "node-2", "node-2"
	s := newDrainStage(t, second, newPod("c", draining, func(p *corev1.Pod) { p.Spec.NodeName = "node-2" }))
	s.calls = map[string]int64{"a": 0, "b": 0, "c": 0}
	(&evictions{answer: func(string, int) error { return nil }}).on(s)
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace, parallel: 1}
	if err := o.run(t.Context(), s.cluster, "node-1", "node-2"); err != nil {
		t.Fatal(err)
	}
	before, after, both := strings.Cut(out.String(), "node/node-2 cordoned\n")
	if !both || !strings.Contains(before, "node/node-1 drained: ") || !strings.Contains(after, "node/node-2 drained: ") {
		t.Errorf("it says:\n%s", out)
	}
}

// TestParallelInterrupted: a node whose turn has not come is not touched, and is in the command
// to continue.
func TestParallelInterrupted(t *testing.T) {
	second := newNode(false)
	second.Name, second.UID = "node-2", "node-2"
	s := newDrainStage(t, second, newPod("c", draining, func(p *corev1.Pod) { p.Spec.NodeName = "node-2" }))
	(&evictions{answer: func(string, int) error { return tooMany() }}).on(s)
	common, _, errOut := newCommon()
	o := drainOptions{common: common, pace: pace, parallel: 1, timeout: time.Second, ignoreDaemonSets: true}
	if err := o.run(t.Context(), s.cluster, "node-1", "node-2"); !errors.Is(err, errWaiting) {
		t.Fatalf("it ends with %v", err)
	}
	for _, want := range []string{"node node-1 stays cordoned; left on it: ", "kubectl uncordon node-1 (", "it was not the turn of node node-2 yet, which was not touched", "To go on: kubectl calls drain node-1 node-2 --parallel=1"} {
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, errOut)
		}
	}
	is, err := s.fake.Tracker().Get(corev1.SchemeGroupVersion.WithResource("nodes"), "", "node-2")
	if node, _ := is.(*corev1.Node); err != nil || node.Spec.Unschedulable {
		t.Errorf("node-2 is cordoned: %v", err)
	}
}

// TestOnDeadline: hold stops waiting; release is only possible if the workload or administrator
// allows it.
func TestOnDeadline(t *testing.T) {
	bounded := []edit{draining, annotated(call.DeadlineAnnotation, "20m"), annotated(call.OnDeadlineAnnotation, "Release")}
	for name, tc := range map[string]struct {
		reason   string
		guard    []string // its flags
		edits    []edit   // of both pods
		deadline time.Duration
		on       string
		err      string
		says     string
	}{
		"Hold": {reason: "Waiting ends, and calls go on.", edits: []edit{draining}, deadline: time.Second, on: onDeadlineHold, err: errWaiting.Error(),
			says: "--deadline is over: node node-1 stays cordoned; left on it: 2 pods"},
		"NotAllowed": {reason: "Nobody has permitted ending these calls.", edits: []edit{draining}, deadline: time.Hour, on: onDeadlineRelease,
			err: "--on-deadline=release after 1h0m0s is not this plugin's to give: drain-guard holds 2 pods, such as voice/a for as long as its calls last; nothing was touched"},
		"TooSoon": {reason: "The workload has asked for more time.", edits: bounded, deadline: 10 * time.Minute, on: onDeadlineRelease,
			err: "voice/a for 20m0s, by annotation callguard.dev/drain-deadline; nothing was touched"},
		"Workload": {reason: "The workload allows it, and whose calls end is said.", edits: bounded, deadline: time.Hour, on: onDeadlineRelease,
			says: "voice/b (1 call now) after 20m0s, by annotation callguard.dev/drain-deadline"},
		"Administrator": {reason: "The administrator allows it.", guard: []string{"--max-hold=30m"}, edits: []edit{draining}, deadline: time.Hour, on: onDeadlineRelease,
			says: "voice/a (no call now) after 30m0s, by the guard's --max-hold"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, append(workload(2), newNode(false), newNamespace(voice, true), newBudget(voice), newGuardDeployment(tc.guard...), newPod("a", tc.edits...), newPod("b", tc.edits...))...)
			s.calls = map[string]int64{"a": 0, "b": 1}
			(&evictions{answer: func(string, int) error {
				if tc.on == onDeadlineHold {
					return tooMany()
				}
				return nil
			}}).on(s)
			common, _, errOut := newCommon()
			o := drainOptions{common: common, pace: pace, deadline: tc.deadline, onDeadline: tc.on}
			err := o.run(t.Context(), s.cluster, "node-1")
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("%s It ends with %v; want %q", tc.reason, err, tc.err)
			}
			if !strings.Contains(errOut.String(), tc.says) {
				t.Errorf("%s It does not say %q:\n%s", tc.reason, tc.says, errOut)
			}
			if touched := cordoned(t, s); touched != (tc.on == onDeadlineHold || tc.err == "") {
				t.Errorf("%s The node is cordoned: %t", tc.reason, touched)
			}
		})
	}
}

// TestDrainFlags: contradictory flags are refused, with what would work.
func TestDrainFlags(t *testing.T) {
	for says, o := range map[string]drainOptions{
		`--on-deadline is "kill"; use hold or release`:                {deadline: time.Minute, onDeadline: "kill"},
		"--on-deadline without --deadline never happens":              {onDeadline: onDeadlineHold},
		"add --on-deadline=hold or --on-deadline=release":             {deadline: time.Minute},
		"--deadline and --timeout both bound the drain":               {deadline: time.Minute, onDeadline: onDeadlineHold, timeout: time.Minute},
		"--deadline with --wait=false":                                {deadline: time.Minute, onDeadline: onDeadlineHold, detach: true},
		`--deadline is "-1s"; use a duration above zero, such as 30m`: {deadline: -time.Second, onDeadline: onDeadlineHold},
		"--parallel is -1; use 0 for all nodes at once, or a number":  {parallel: -1},
		"--parallel with --wait=false has nothing to wait for":        {parallel: 2, detach: true},
	} {
		if err := o.validate([]string{"node-1"}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("it says %v; want %q", err, says)
		}
	}
}

// TestNextToEvict checks the order of evictions.
func TestNextToEvict(t *testing.T) {
	free, held := newPod("free", released(call.NodeDrain)), newPod("held")
	tried := map[types.UID]int{"free": 9, "held": 0}
	if nextToEvict(free, held, tried) >= 0 || nextToEvict(held, free, tried) <= 0 {
		t.Error("a released pod is not first")
	}
	if other := newPod("other"); nextToEvict(other, newPod("held"), map[types.UID]int{"other": 1}) <= 0 {
		t.Error("a pod that was tried less is not before others")
	}
}
