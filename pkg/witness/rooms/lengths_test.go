// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/livekit"
)

// spoke is an agent of pod-a, with its sid and when it joined by LiveKit's clock,
// which is an hour ahead.
func spoke(sid string, joined float64) livekit.Agent {
	return livekit.Agent{SID: sid, Pod: "pod-a", Joined: second(3600 + joined)}
}

// TestLengths: lengths are learnt from calls in the book: from join to end, across
// reconnects, by this program's clock; and a call that may only be missing has not ended.
func TestLengths(t *testing.T) {
	sweep := list{room: "sweep"}
	swept := func(at float64) list { l := sweep; l.at = at; return l }
	for name, tc := range map[string]struct {
		reason string
		outage float64
		lists  []list
		now    float64
		ended  int
		ages   []time.Duration
	}{
		"Begins": {reason: "A call is as old as it has been seen.", now: 40, ages: []time.Duration{30 * time.Second},
			lists: []list{swept(1), {at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10)}}}},
		"Ends": {reason: "One that left has ended.", now: 100, ended: 1,
			lists: []list{swept(1), {at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10)}}, {at: 70, room: "r", left: "PA_1"}}},
		"EndsUnannounced": {reason: "One that two lists lack has ended when the first of them lacked it.", now: 100, ended: 1,
			lists: []list{swept(1), {at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10)}}, {at: 70, room: "r"}, {at: 72, room: "r"}}},
		"Reconnects": {reason: "The same pod's agent under a new sid is the same call.", now: 100, ages: []time.Duration{90 * time.Second},
			lists: []list{swept(1), {at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10)}}, {at: 70, room: "r", left: "PA_1", agents: []livekit.Agent{spoke("PA_2", 70)}}}},
		"TwoAgents": {reason: "Two agents of a pod in a room are one call, which lasts as long as either.", now: 100, ages: []time.Duration{90 * time.Second},
			lists: []list{swept(1), {at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10), spoke("PA_2", 10)}}, {at: 70, room: "r", left: "PA_1", agents: []livekit.Agent{spoke("PA_2", 10)}}}},
		"AtFirst": {reason: "Those of the first sweep are as much older than the newest as LiveKit's own clock says.", now: 40, ages: []time.Duration{30 * time.Second, 30*time.Second + 300*time.Second},
			lists: []list{{at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", -290)}}, {at: 10, room: "s", agents: []livekit.Agent{spoke("PA_2", 10)}}, swept(10)}},
		"BeforeTheFirst": {reason: "Until all rooms were read no age is known.", now: 40,
			lists: []list{{at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10)}}}},
		"Tried": {reason: "A call that kubectl calls try makes is no caller's.", now: 100,
			lists: []list{swept(1), {at: 10, room: "callguard-try-1", agents: []livekit.Agent{spoke("PA_1", 10)}}, {at: 20, room: "callguard-try-1", left: "PA_1"}}},
		"Lost": {reason: "A call that LiveKit lost in an outage has not ended.", outage: 60, now: 100,
			lists: []list{swept(1), {at: 10, room: "r", agents: []livekit.Agent{spoke("PA_1", 10)}}, {at: 61, room: "r"}, {at: 75, room: "r"}}},
	} {
		t.Run(name, func(t *testing.T) {
			table := &lengths.Table{}
			b := newBook(testConfirm, testDoubt)
			b.lengths = func(types.UID) *lengths.Table { return table }
			for _, l := range tc.lists {
				if tc.outage > 0 && l.at >= tc.outage && b.doubtUntil.IsZero() {
					b.outageOver(second(tc.outage))
				}
				if l.room == sweep.room {
					b.sweptSince(second(l.at))
					continue
				}
				b.apply(l.room, l.agents, second(l.at), false, func(sid string) bool { return sid == l.left })
			}
			ages := b.ages("pod-a", second(tc.now))
			slices.Sort(ages)
			if diff := cmp.Diff(tc.ages, ages); diff != "" {
				t.Errorf("%s the ages (-want, +got):\n%s", tc.reason, diff)
			}
			if got := table.Curve().Ended(); got != tc.ended {
				t.Errorf("%s %d calls have ended; want %d", tc.reason, got, tc.ended)
			}
		})
	}
}

// TestLearntLengthIsTheCalls: calls of three minutes, seen by sweeps every 10 s, are learnt
// as such, whoever joined first.
func TestLearntLengthIsTheCalls(t *testing.T) {
	table := &lengths.Table{}
	b := newBook(testConfirm, testDoubt)
	b.lengths = func(types.UID) *lengths.Table { return table }
	b.sweptSince(second(0))
	for at := 10.0; at < 3600; at += 10 {
		for i := range 300 {
			began := float64(i) * 11
			room := fmt.Sprint("r", i)
			if agent := spoke(fmt.Sprint("PA_", i), began); began < at && at < began+180 {
				b.apply(room, []livekit.Agent{agent}, second(at), false, func(string) bool { return false })
			} else if b.rooms[room] != nil {
				b.apply(room, nil, second(at), false, func(string) bool { return false })
				b.apply(room, nil, second(at+2), false, func(string) bool { return false })
			}
		}
		b.sweptSince(second(at))
	}
	curve := table.Curve()
	if curve.Ended() != 300 {
		t.Fatalf("%d calls have ended", curve.Ended())
	}
	if got := lengths.Over([]lengths.Call{{Age: time.Minute, Like: curve}}, 0.5); got < 105*time.Second || got > 135*time.Second {
		t.Errorf("a call of three minutes that is a minute old is estimated to end after %s", got)
	}
}
