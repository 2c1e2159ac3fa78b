// SPDX-License-Identifier: Apache-2.0

package trycall

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/gate"
)

const (
	agentLK = "wss://livekit.example.com"
	prompt  = 30 * time.Second
)

// world is a LiveKit with one agent in one pod, where everything works.
type world struct {
	refuses, closed error
	// comesAfter, speaksAfter and staysFor are times of the agent; never is none.
	comesAfter, speaksAfter, staysFor time.Duration
	attribute                         types.UID
	jobs                              []Job
	gateErr                           error
	gateCalls, apiCalls               func(up bool) call.Reading

	began time.Time // when the caller joined
	left  time.Time // when the caller left; zero before
	over  []string  // rooms that were deleted
}

const never = time.Hour

func goodWorld() *world {
	same := func(up bool) call.Reading {
		if up {
			return call.Known(1, time.Time{})
		}
		return call.Known(0, time.Time{})
	}
	return &world{comesAfter: time.Second, speaksAfter: 2 * time.Second, staysFor: 3 * time.Second, attribute: "uid-1", gateCalls: same, apiCalls: same}
}

func (w *world) Dial(context.Context, string, string) (Caller, error) {
	w.began = time.Now()
	return w, w.refuses
}

func (w *world) Jobs(context.Context, string) ([]Job, error) { return w.jobs, nil }

func (w *world) Close(_ context.Context, room string) error {
	w.over = append(w.over, room)
	return w.closed
}

func (w *world) Agent() (int, bool) {
	up := time.Since(w.began)
	if up < w.comesAfter {
		return 0, false
	}
	if up < w.speaksAfter {
		return 0, true
	}
	return 1, true
}

func (w *world) HangUp() { w.left = time.Now() }

// up reports whether the agent is in the room.
func (w *world) up() bool {
	return !w.began.IsZero() && time.Since(w.began) >= w.comesAfter && (w.left.IsZero() || time.Since(w.left) < w.staysFor)
}

func (w *world) participants(context.Context, string) (livekit.Room, error) {
	if !w.up() {
		return livekit.Room{}, nil
	}
	return livekit.Room{Open: true, Agents: []livekit.Agent{{Identity: "agent-1", Pod: w.attribute}}}, nil
}

func (w *world) pods(context.Context) ([]Pod, error) {
	pod := newPod("agent-1", w.apiCalls(w.up()))
	return []Pod{pod}, nil
}

func newPod(name string, calls call.Reading) Pod {
	return Pod{Calls: calls, Pod: &call.Pod{
		NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}, UID: types.UID("uid-" + strings.TrimPrefix(name, "agent-")),
		Node: "node-1", State: call.Serving, Running: true, Witnesses: []call.Witness{call.Rooms, call.Gate}, GatePort: 8089,
	}}
}

func (w *world) gate(context.Context, *call.Pod) (gate.Answer, error) {
	n, known := w.gateCalls(w.up()).Calls()
	able := true
	return gate.Answer{Known: known, Calls: n, Able: &able, LiveKit: agentLK}, w.gateErr
}

func TestRun(t *testing.T) {
	constant := func(n int) func(bool) call.Reading {
		return func(bool) call.Reading { return call.Known(n, time.Time{}) }
	}
	const good = "key OK, dial OK, answer OK, speak OK, pod OK, gate OK, metrics OK, hang-up OK, free OK"
	cases := map[string]struct {
		reason string
		change func(*world)
		want   string
		err    error
		says   string
	}{
		"Good": {reason: "Everything works.", change: func(*world) {}, want: good},
		"NoMedia": {reason: "LiveKit takes the key, and its media cannot be reached.", change: func(w *world) { w.refuses = errors.New("no way in") },
			want: "key OK, dial FAIL", err: ErrNotTried, says: "no way in"},
		"Nobody": {reason: "LiveKit has no agent to send, and the pod is idle.", change: func(w *world) { w.comesAfter = never },
			want: "key OK, dial OK, answer FAIL", err: ErrUnanswered, says: "without a call, so not all are full"},
		"Slow": {reason: "An agent has the job, and is too late.", change: func(w *world) { w.comesAfter, w.jobs = never, []Job{{}} },
			want: "key OK, dial OK, answer FAIL", err: ErrUnanswered, says: "did not join in time"},
		"Mute": {reason: "Its caller hears nothing, but is counted.", change: func(w *world) { w.speaksAfter = never },
			want: strings.Replace(good, "speak OK", "speak FAIL", 1), err: ErrUnanswered, says: "publishes no track"},
		"Nameless": {reason: "It bypasses the gate.", change: func(w *world) { w.attribute = "" },
			want: "key OK, dial OK, answer OK, speak OK, pod FAIL, hang-up OK", err: ErrUncounted, says: "does not say in which pod"},
		"Foreign": {reason: "Another cluster uses the same LiveKit project.", change: func(w *world) { w.attribute = "uid-9" },
			want: "key OK, dial OK, answer OK, speak OK, pod FAIL, hang-up OK", err: ErrUncounted, says: "uid-9, which is not a guarded pod of namespace voice"},
		"FarGate": {reason: "From a laptop no pod is reached; that is no fault of the call.", change: func(w *world) { w.gateErr = errors.New("timeout") },
			want: strings.Replace(good, "gate OK", "gate ?", 1)},
		"GateCountsNone": {reason: "The agent names its pod itself, and bypasses the gate.", change: func(w *world) { w.gateCalls = constant(0) },
			want: strings.Replace(good, "gate OK", "gate FAIL", 1), err: ErrUncounted, says: "call-gate of pod voice/agent-1 counts no call"},
		"APICountsNone": {reason: "The adapter reads another LiveKit.", change: func(w *world) { w.apiCalls = constant(0) },
			want: strings.Replace(good, "metrics OK", "metrics FAIL", 1), err: ErrUncounted, says: "the metrics API counts no call"},
		"Unknown": {reason: "Unknown is not zero, and not one.", change: func(w *world) {
			w.apiCalls = func(bool) call.Reading { return call.Unknown("LiveKit is silent") }
		}, want: strings.Replace(good, "metrics OK", "metrics FAIL", 1), err: ErrUncounted, says: "LiveKit is silent"},
		"Stays": {reason: "An agent that never leaves holds its node.", change: func(w *world) { w.staysFor = never },
			want: strings.NewReplacer("hang-up OK", "hang-up FAIL", "free OK", "free FAIL").Replace(good), err: ErrUncounted, says: "stays in the room"},
		"NeverFreed": {reason: "The gate counts a job that has ended.", change: func(w *world) { w.gateCalls = constant(1) },
			want: strings.Replace(good, "free OK", "free FAIL", 1), err: ErrUncounted, says: "call-gate still counts the call"},
		"Busy": {reason: "It is unknown which of three calls has ended.", change: func(w *world) { w.gateCalls, w.apiCalls = constant(3), constant(3) },
			want: strings.Replace(good, "free OK", "free ?", 1)},
		"Left": {reason: "A room that stays is reported.", change: func(w *world) { w.closed = errors.New("no answer") }, want: good, says: "could not be ended"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := goodWorld()
				tc.change(w)
				got, room, err := run(t.Context(), w)
				if diff := cmp.Diff(tc.want, strings.Join(got, ", ")); diff != "" {
					t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
				}
				if tc.err != nil && !errors.Is(err, tc.err) || !strings.Contains(fmt.Sprint(err), tc.says) || (tc.err == nil && tc.says == "") != (err == nil) {
					t.Errorf("%s\nthe error is %v; want %v, with %q", tc.reason, err, tc.err, tc.says)
				}
				if diff := cmp.Diff([]string{room}, w.over); diff != "" || !strings.HasPrefix(room, call.TryRoomPrefix) {
					t.Errorf("the room is not ended (-want, +ended):\n%s", diff)
				}
			})
		})
	}
}

func run(ctx context.Context, w *world) (steps []string, room string, err error) {
	room, err = Run(ctx, Config{
		Phone: w, Participants: w.participants, Pods: w.pods, Gate: w.gate,
		Rooms: func(context.Context, ...string) ([]livekit.RoomInfo, error) { return nil, nil },
		URL:   agentLK, Namespace: "voice", Speak: true, AnswerWithin: prompt, CountWithin: prompt,
		Show: func(s Step) { steps = append(steps, s.Name+" "+string(s.Outcome)) },
	})
	return steps, room, err
}

// TestInterrupted: Ctrl-C ends the call, and its room.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := goodWorld()
		w.comesAfter = never
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		steps, room, err := run(ctx, w)
		if !errors.Is(err, context.DeadlineExceeded) || len(steps) != 2 || w.left.IsZero() || len(w.over) != 1 || w.over[0] != room {
			t.Errorf("%v, %v; hung up at %v, ended %v", steps, err, w.left, w.over)
		}
	})
}

// TestWhyNobodyCame: one sentence with everything that is known, and what to do.
func TestWhyNobodyCame(t *testing.T) {
	known := func(n int) call.Reading { return call.Known(n, time.Time{}) }
	leaving := newPod("agent-3", known(0))
	leaving.State = call.Draining
	able := map[string]gateSaid{"voice/agent-1": {able: true, server: agentLK}}
	cases := map[string]struct {
		reason string
		given  silence
		want   string
	}{
		"Full":      {reason: "LiveKit Cloud says so itself.", given: silence{jobs: []Job{{Full: true}}}, want: "LiveKit finds every agent full"},
		"Crashed":   {reason: "The agent's own word.", given: silence{jobs: []Job{{Over: true, Error: "no\x1b model"}}}, want: `its job failed: no\u001b model; see the agent's log`},
		"Ended":     {reason: "It said nothing.", given: silence{jobs: []Job{{Over: true}}}, want: "its job ended before it joined"},
		"NoJobs":    {reason: "Nothing is known.", given: silence{jobsUnread: errors.New("unavailable")}, want: "LiveKit does not say whether it found one: unavailable"},
		"NoPod":     {reason: "The wrong namespace.", given: silence{namespace: "voice"}, want: "there is no guarded pod in namespace voice; name that of the agents with --namespace"},
		"NoneReady": {reason: "The last one drains.", given: silence{namespace: "voice", pods: []Pod{leaving}}, want: "of 1 guarded pod in namespace voice none serves"},
		"Unread":    {reason: "RBAC.", given: silence{podsUnread: errors.New("forbidden")}, want: "which pods there are is not known: forbidden"},
		"Busy":      {reason: "All have calls; how many each takes only the agents know.", given: silence{pods: []Pod{newPod("agent-1", known(2)), newPod("agent-2", known(3)), leaving}}, want: "all pods that serve (2) hold calls, 5 together, so they may be full"},
		"Unknown":   {reason: "Unknown is not idle.", given: silence{pods: []Pod{newPod("agent-1", call.Unknown("x"))}}, want: "of the 1 pods that serve, the calls of 1 are unknown"},
		"Idle":      {reason: "It may have a name.", given: silence{url: agentLK, gates: able, pods: []Pod{newPod("agent-1", known(0))}}, want: "so not all are full. Where they are registered with a name"},
		"Name":      {reason: "Another name.", given: silence{agentName: "bob", pods: []Pod{newPod("agent-1", known(0))}}, want: `(agent name "bob"): of the pods that serve (1) 1 without a call, so not all are full. See whether they are registered with this very name`},
		"Elsewhere": {reason: "The key is another project's.", given: silence{url: "wss://other", gates: able, pods: []Pod{newPod("agent-1", known(0))}}, want: "The agent of pod voice/agent-1 works for " + agentLK + " and the call went to wss://other"},
		"Unable":    {reason: "The gate knows better.", given: silence{gates: map[string]gateSaid{"voice/agent-1": {why: "LiveKit refuses the key"}}, pods: []Pod{newPod("agent-1", known(0))}}, want: "pod voice/agent-1 cannot take calls: LiveKit refuses the key"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.given.why(); !strings.Contains(got, tc.want) {
				t.Errorf("%s\n%s\nwant …%s…", tc.reason, got, tc.want)
			}
		})
	}
}
