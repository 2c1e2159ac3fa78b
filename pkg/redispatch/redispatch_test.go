// SPDX-License-Identifier: Apache-2.0

package redispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// pod can take calls of the default project, according to the kubelet.
func pod(uid string, change func(*call.Pod)) *call.Pod {
	p := &call.Pod{
		UID: types.UID(uid), State: call.Serving, Running: true, Ready: true, Witnesses: []call.Witness{call.Rooms, call.Gate},
		Project: call.DefaultProject, Demand: call.Demand{Project: call.DefaultProject, AgentName: "desk", Again: true},
	}
	if change != nil {
		change(p)
	}
	return p
}

// world is one in which a caller waits for agent "desk".
type world struct {
	mu      sync.Mutex // guards the rest while a Dispatcher runs
	pods    []*call.Pod
	ability call.Ability
	wants   []string
	notMine bool
	unknown bool
	err     error
	sent    []string
	asked   int
}

func (w *world) run(t *testing.T, story func()) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	d, err := New(Config{
		Waiting: func(p call.Project, now time.Time) (call.Waiting, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.unknown {
				return call.Waiting{}, errors.New("LiveKit is silent")
			}
			return call.Waiting{Rooms: []call.WaitingRoom{{Room: "r", Since: now, Wants: w.wants}}, At: now}, nil
		},
		Demands: func() []call.Demand {
			return []call.Demand{{Project: call.DefaultProject, AgentName: "desk", Again: true}, {Project: "voice/other"}}
		},
		Pods: func() []*call.Pod {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.pods)
		},
		Ability: func(*call.Pod, time.Time) call.Ability { return w.ability },
		Ask:     func(...types.UID) { w.asked++ },
		Dispatch: func(_ context.Context, p call.Project, room, agent string) (bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.err != nil {
				return false, w.err
			}
			w.sent = append(w.sent, fmt.Sprintf("%s/%s/%s", p, room, agent))
			return true, nil
		},
		Mine: func(string) bool { return !w.notMine }, Registry: registry, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	story()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var counts []string
	for _, outcome := range []string{"sent", "needless", "error"} {
		counts = append(counts, fmt.Sprintf("%s %.0f", outcome, testutil.ToFloat64(d.total.WithLabelValues(outcome))))
	}
	return strings.Join(counts, ", ")
}

// TestDispatcher: which calls are dispatched again within two minutes, and how often.
func TestDispatcher(t *testing.T) {
	t.Parallel()
	desk := []string{"desk"}
	for name, tc := range map[string]struct {
		reason string
		world  *world
		want   int
	}{
		"Able":        {reason: "Once for each pod.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", nil)}}, want: 1},
		"TwoAtOnce":   {reason: "One agent is enough.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", nil), pod("b", nil)}}, want: 1},
		"NoPod":       {reason: "There is no agent.", world: &world{wants: desk, ability: call.Able}},
		"Unable":      {reason: "Its worker is not registered.", world: &world{wants: desk, ability: call.Registering, pods: []*call.Pod{pod("a", nil)}}},
		"GateSilent":  {reason: "It is not yet known that it is.", world: &world{wants: desk, pods: []*call.Pod{pod("a", nil)}}},
		"NoGate":      {reason: "Ready may be too early: three times.", world: &world{wants: desk, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Witnesses = call.DefaultWitnesses() })}}, want: 3},
		"OldGate":     {reason: "Nor does an older gate report it.", world: &world{wants: desk, ability: call.Unsaid, pods: []*call.Pod{pod("a", nil)}}, want: 3},
		"NotReady":    {reason: "The kubelet says no.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Ready = false })}}},
		"Draining":    {reason: "It takes no new call.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.State = call.Draining })}}},
		"Terminating": {reason: "It is going.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Terminating = true })}}},
		"NotAsked":    {reason: "No caller has requested it.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Demand.Again = false })}}},
		"OtherName":   {reason: "It could not take the call.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Demand.AgentName = "sales" })}}},
		"NoName":      {reason: "Another workload has the name.", world: &world{wants: desk, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Demand.AgentName = "" })}}},
		"NobodysName": {reason: "No workload has this name, so it may be that of one without a name.", world: &world{wants: []string{"sales"}, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Demand.AgentName = "" })}}, want: 1},
		"AnyAgent":    {reason: "People may talk in that room.", world: &world{wants: []string{""}, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Demand.AgentName = "" })}}},
		"EveryRoom":   {reason: "Not where the team says otherwise.", world: &world{wants: []string{""}, ability: call.Able, pods: []*call.Pod{pod("a", func(p *call.Pod) { p.Demand.AgentName, p.Demand.EveryRoom = "", true })}}, want: 1},
		"NotMine":     {reason: "Another replica does it.", world: &world{wants: desk, ability: call.Able, notMine: true, pods: []*call.Pod{pod("a", nil)}}},
		"Unknown":     {reason: "It is unknown what waits.", world: &world{wants: desk, ability: call.Able, unknown: true, pods: []*call.Pod{pod("a", nil)}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := tc.world
				said := w.run(t, func() { time.Sleep(2 * time.Minute) })
				if len(w.sent) != tc.want || said != fmt.Sprintf("sent %d, needless 0, error 0", tc.want) {
					t.Errorf("%s: LiveKit was asked %v (%s), want %d times", tc.reason, w.sent, said, tc.want)
				}
				if asks := tc.world.ability == "" || tc.world.ability == call.Registering; len(tc.world.pods) > 0 && tc.world.pods[0].Asks(call.Gate) && asks != (w.asked > 0) {
					t.Errorf("gates were asked %d times", w.asked)
				}
			})
		})
	}
}

// TestNewPods: each pod that becomes ready while a call waits causes a try, ten seconds apart, and twenty
// in total.
func TestNewPods(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{wants: []string{"desk"}, ability: call.Able}
		var at []int
		w.run(t, func() {
			time.Sleep(every / 2) // pods do not appear at the moment of a check
			for i := range 100 {
				w.mu.Lock()
				w.pods = append(w.pods, pod(fmt.Sprint("pod-", i), nil))
				w.mu.Unlock()
				time.Sleep(5 * time.Second)
				if i < 6 {
					w.mu.Lock()
					at = append(at, len(w.sent))
					w.mu.Unlock()
				}
			}
		})
		if diff := cmp.Diff([]int{1, 1, 2, 2, 3, 3}, at); diff != "" {
			t.Errorf("dispatches after each five seconds: -want +got\n%s", diff)
		}
		if len(w.sent) != maxTimes {
			t.Errorf("a room was dispatched %d times, want %d", len(w.sent), maxTimes)
		}
	})
}

// TestErrorIsNoTry: a request that LiveKit did not get is repeated, for the same pod.
func TestErrorIsNoTry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{wants: []string{"desk"}, ability: call.Able, pods: []*call.Pod{pod("a", nil)}, err: errors.New("no")}
		said := w.run(t, func() {
			time.Sleep(15*time.Second + every/2)
			w.mu.Lock()
			w.err = nil
			w.mu.Unlock()
			time.Sleep(time.Minute)
		})
		if said != "sent 1, needless 0, error 2" || len(w.sent) != 1 || w.sent[0] != "default/r/desk" {
			t.Errorf("%s: %v", said, w.sent)
		}
	})
}
