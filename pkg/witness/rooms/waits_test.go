// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	protocol "github.com/livekit/protocol/livekit"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

func asksAfterThree(c *Config) {
	asAdapter(c)
	c.WaitAfter = 3 * time.Second
}

// said describes a Reader's callers without an agent, in a line; "" while it does not know.
func said(r *Reader) string {
	w, err := r.Waiting(time.Now())
	if err != nil {
		return ""
	}
	var rooms []string
	for _, room := range w.Rooms {
		rooms = append(rooms, fmt.Sprintf("%s wants %q", room.Room, room.Wants))
	}
	slices.Sort(rooms)
	return fmt.Sprintf("%s; unknown %d %s", strings.Join(rooms, ", "), w.Unknown, w.Why)
}

// TestWaiting: which participants in LiveKit count as waiting for an agent, half a minute after the Reader has started.
func TestWaiting(t *testing.T) {
	t.Parallel()
	caller, agent := callerOf("PA_c"), agentOf("PA_a", "pod-a")
	hosted := agentOf("PA_h", "")
	hosted[0].KindDetails = []protocol.ParticipantInfo_KindDetail{protocol.ParticipantInfo_CLOUD_AGENT}
	recorder := []*protocol.ParticipantInfo{{Sid: "PA_r", Kind: protocol.ParticipantInfo_EGRESS}}
	for name, tc := range map[string]struct {
		reason string
		in     []*protocol.ParticipantInfo
		asks   []*protocol.AgentDispatch
		broken bool
		want   string
	}{
		"Untaken":  {reason: "It requested a name, and LiveKit sent no agent.", in: caller, asks: asksFor("desk", false), want: `r wants ["desk"]; unknown 0 `},
		"Taken":    {reason: "An agent is on its way, or has gone.", in: caller, asks: asksFor("desk", true), want: "; unknown 0 "},
		"Again":    {reason: "It was asked for again, and came.", in: caller, asks: append(asksFor("desk", false), asksFor("desk", true)...), want: "; unknown 0 "},
		"OneOfTwo": {reason: "One of two came.", in: caller, asks: append(asksFor("desk", true), asksFor("sales", false)...), want: `r wants ["sales"]; unknown 0 `},
		"People":   {reason: "LiveKit asks for any agent by itself.", in: caller, asks: asksFor("", false), want: `r wants [""]; unknown 0 `},
		"Nothing":  {reason: "It requested no agent.", in: caller, want: `r wants [""]; unknown 0 `},
		"Answered": {reason: "It has its agent.", in: append(caller, agent...), asks: asksFor("desk", false), want: "; unknown 0 "},
		"Hosted":   {reason: "LiveKit Cloud answers it.", in: append(caller, hosted...), asks: asksFor("desk", false), want: "; unknown 0 "},
		"Empty":    {reason: "Its room is empty.", asks: asksFor("desk", false), want: "; unknown 0 "},
		"Recorder": {reason: "A recorder is no caller.", in: recorder, asks: asksFor("desk", false), want: "; unknown 0 "},
		"Broken":   {reason: "Unknown is never zero.", in: caller, broken: true, want: "; unknown 1 cannot list the dispatches of a room of LiveKit: it answers 500 Internal Server Error; LiveKit's log says why"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lk := newFakeLiveKit()
			lk.rooms["r"], lk.asksFor["r"], lk.broken["dispatches"] = tc.in, tc.asks, tc.broken
			inNoTime(t, lk, asksAfterThree, func(t *testing.T, r *Reader) {
				time.Sleep(30 * time.Second)
				if got := said(r); got != tc.want {
					t.Errorf("%s\ngot  %s\nwant %s", tc.reason, got, tc.want)
				}
			})
		})
	}
}

// TestTriedCallsWaitForNobody: kubectl calls try reports itself if nobody answers.
func TestTriedCallsWaitForNobody(t *testing.T) {
	w := newWaits()
	const room = call.TryRoomPrefix + "99d76268c2f9"
	if w.came(room, time.Unix(0, 0)) || w.read(room, true, time.Unix(0, 0)) || len(w.rooms) > 0 {
		t.Errorf("a call that was tried waits: %v", w.rooms)
	}
	if !w.came("+4930555001", time.Unix(0, 0)) {
		t.Error("a caller does not wait")
	}
}

// TestWaitingEnds: a caller is known from a webhook, counts as waiting after three seconds, and stops when an agent joins or
// the caller leaves.
func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	lk := newFakeLiveKit()
	inNoTime(t, lk, asksAfterThree, func(t *testing.T, r *Reader) {
		soon(t, 30*time.Second, "LiveKit is read", func() bool { return said(r) == "; unknown 0 " })
		lk.set(func() { lk.rooms[number], lk.asksFor[number] = callerOf("PA_1"), asksFor("desk", false) })
		r.Heed(Event{Name: "participant_joined", Room: number, Participant: "PA_1"})
		throughout(t, 2900*time.Millisecond, "an agent may be on its way", func() bool { return said(r) == "; unknown 0 " })
		const waits = number + ` wants ["desk"]; unknown 0 `
		soon(t, 300*time.Millisecond, "the call waits", func() bool { return said(r) == waits })
		throughout(t, 2*time.Minute, "it waits on", func() bool { return said(r) == waits })

		lk.set(func() { lk.rooms[number] = append(callerOf("PA_1"), agentOf("PA_2", "pod-a")...) })
		soon(t, 20*time.Second, "an agent of which no webhook told ends it", func() bool { return said(r) == "; unknown 0 " })

		lk.set(func() { lk.rooms["r"], lk.asksFor["r"] = callerOf("PA_3"), asksFor("desk", false) })
		soon(t, 30*time.Second, "the sweeps see the next one", func() bool { return strings.HasPrefix(said(r), "r wants") })
		lk.set(func() { delete(lk.rooms, "r") })
		r.Heed(Event{Name: "participant_left", Room: "r", Participant: "PA_3"})
		soon(t, time.Second, "its caller has gone", func() bool { return said(r) == "; unknown 0 " })
	})
}

// TestWaitingWithinTheLimit: a hundred rooms of people do not exceed the limit, and all calls are still
// counted.
func TestWaitingWithinTheLimit(t *testing.T) {
	t.Parallel()
	lk := withRooms(20)
	lk.limit = 120
	for i := range 100 {
		lk.rooms[fmt.Sprint("people-", i)] = callerOf(fmt.Sprint("PA_p", i))
	}
	inNoTime(t, lk, func(c *Config) { asksAfterThree(c); c.RequestsPerMinute = 120 }, func(t *testing.T, r *Reader) {
		soon(t, 2*time.Minute, "all rooms are read", allRead(r, 20))
		throughout(t, 10*time.Minute, "calls are known", allRead(r, 20))
		if most, refused := lk.counted(); refused > 0 || most > 120 {
			t.Errorf("%d requests in a minute, %d refused; the limit is 120", most, refused)
		}
	})
}

// TestDispatchAgain: what a room requested and did not get is dispatched again, but not what is no longer needed.
func TestDispatchAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason, agent string
		change        func(*fakeLiveKit)
		want          bool
	}{
		"Waits":      {reason: "It waits for this agent.", agent: "desk", want: true},
		"OtherAgent": {reason: "It did not ask for that one.", agent: "sales"},
		"AgentCame":  {reason: "Two agents would talk.", agent: "desk", change: func(lk *fakeLiveKit) { lk.rooms["r"] = append(callerOf("PA_1"), agentOf("PA_2", "")...) }},
		"CallerLeft": {reason: "There is no caller.", agent: "desk", change: func(lk *fakeLiveKit) { delete(lk.rooms, "r") }},
		"Taken":      {reason: "An agent is on its way.", agent: "desk", change: func(lk *fakeLiveKit) { lk.asksFor["r"] = asksFor("desk", true) }},
		"AskedAgain": {reason: "Somebody else has just asked again.", agent: "desk", change: func(lk *fakeLiveKit) { lk.asksFor["r"] = append(lk.asksFor["r"], asksFor("desk", false)...) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lk := newFakeLiveKit()
			lk.rooms["r"], lk.asksFor["r"] = callerOf("PA_1"), asksFor("desk", false)
			inNoTime(t, lk, asksAfterThree, func(t *testing.T, r *Reader) {
				soon(t, 30*time.Second, "the call waits", func() bool { return strings.HasPrefix(said(r), "r wants") })
				if tc.change != nil {
					lk.set(func() { tc.change(lk) })
				}
				before := len(lk.asksFor["r"])
				got, err := r.DispatchAgain(t.Context(), "r", tc.agent)
				lk.mu.Lock()
				now := len(lk.asksFor["r"])
				lk.mu.Unlock()
				if err != nil || got != tc.want || (now > before) != tc.want {
					t.Errorf("%s: %v, %v, and %d dispatches after %d", tc.reason, got, err, now, before)
				}
			})
		})
	}
}

// TestUntaken: if a room requested a name twice, one agent is enough.
func TestUntaken(t *testing.T) {
	t.Parallel()
	many := []livekit.Dispatch{{AgentName: "a"}, {AgentName: "a"}, {AgentName: "b"}, {AgentName: "b", Taken: true}, {}}
	if diff := cmp.Diff([]string{"a", ""}, untaken(many)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	many = nil
	for i := range 100 {
		many = append(many, livekit.Dispatch{AgentName: fmt.Sprint(i)})
	}
	if got := untaken(many); len(got) != maxWants {
		t.Errorf("of a room that asks for 100 agents %d are kept", len(got))
	}
}

// TestManyWaiters: what is kept is bounded, and what is not kept is unknown.
func TestManyWaiters(t *testing.T) {
	t.Parallel()
	w, now := newWaits(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range maxWaits + 5 {
		w.read(fmt.Sprint(i), true, now)
		w.told(fmt.Sprint(i), nil, nil, now)
	}
	said := w.waiting(time.Second, time.Second, time.Minute, now.Add(10*time.Second))
	if len(said.Rooms) != maxWaits || said.Unknown != 5 {
		t.Errorf("%d rooms are kept and %d unknown; want %d and 5", len(said.Rooms), said.Unknown, maxWaits)
	}
	if said := newWaits().waiting(time.Second, time.Second, time.Minute, now); cmp.Diff(call.Waiting{}, said) != "" {
		t.Errorf("without waiting callers the answer is %+v", said)
	}
}
