// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/livekit"
)

const (
	testConfirm = 1 * time.Second
	testDoubt   = 10 * time.Second
)

func second(n float64) time.Time {
	return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n * float64(time.Second)))
}

// list is LiveKit's answer about a room, at a second.
type list struct {
	at       float64
	room     string
	agents   []livekit.Agent
	sweeping bool
	left     string // a sid whose leaving a webhook announced
}

func TestBook(t *testing.T) {
	a1, a2 := livekit.Agent{SID: "PA_1", Pod: "pod-a"}, livekit.Agent{SID: "PA_2", Pod: "pod-a"}
	b1 := livekit.Agent{SID: "PA_3", Pod: "pod-b"}
	nobody := livekit.Agent{SID: "PA_4"}
	many := func(n int) (lists []list) {
		for i := range n {
			lists = append(lists, list{at: 1, room: fmt.Sprint("r", i), agents: []livekit.Agent{{SID: fmt.Sprint("PA_", i), Pod: "pod-a"}}})
		}
		return lists
	}
	gone := func(n int, at float64, sweeping bool) (lists []list) {
		for i := range n {
			lists = append(lists, list{at: at, room: fmt.Sprint("r", i), sweeping: sweeping})
		}
		return lists
	}
	cases := map[string]struct {
		reason       string
		outage       float64 // LiveKit answers again from then on
		lists        []list
		now          float64
		want         int // calls of pod-a; -1 is unknown
		unattributed int
	}{
		"Nothing": {reason: "A pod in no room is idle.", now: 1, want: 0},
		"OneCall": {reason: "An agent in a room is a call.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}}, now: 2, want: 1},
		"RoomsNotAgents": {reason: "Two agents of a pod in one room are one call.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1, a2}}}, now: 2, want: 1},
		"OtherPod": {reason: "A call belongs to the pod that the agent names.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{b1}}}, now: 2, want: 0},
		"Unattributed": {reason: "An agent that names no pod is counted as such.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{nobody, a1}}}, now: 2, want: 1, unattributed: 1},
		"MissingOnce": {reason: "An agent missing from one list may stand in the next.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r"}}, now: 6, want: 1},
		"MissingAndBack": {reason: "It came back.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r"}, {at: 6, room: "r", agents: []livekit.Agent{a1}}, {at: 20, room: "r"}}, now: 20, want: 1},
		"MissingTooSoon": {reason: "A second list that is hardly later says no more than the first.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r"}, {at: 5.5, room: "r"}}, now: 6, want: 1},
		"MissingTwice": {reason: "Two lists apart agree: the call is over.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r"}, {at: 6, room: "r"}}, now: 6, want: 0},
		"LeftByWebhook": {reason: "The participant itself was announced to have left, and the list agrees.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r", left: "PA_1"}}, now: 5, want: 0},
		"LeftOldSid": {reason: "A webhook about an earlier connection does not end the call of the new one.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a2}}, {at: 5, room: "r", left: "PA_1"}}, now: 5, want: 1},
		"LeftButListed": {reason: "While the list still has it, the call continues.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r", agents: []livekit.Agent{a1}, left: "PA_1"}}, now: 5, want: 1},
		"Reconnected": {reason: "The same pod's agent under a new sid is the same call.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r", agents: []livekit.Agent{a2}}}, now: 5, want: 1},
		"Handover": {reason: "Another pod took the call over; the first is over after its second miss.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r", agents: []livekit.Agent{b1}}, {at: 6, room: "r", agents: []livekit.Agent{b1}}}, now: 6, want: 0},
		"LateAnswer": {reason: "A list asked for earlier than the latest one changes nothing.",
			lists: []list{{at: 5, room: "r", agents: []livekit.Agent{a1}}, {at: 2, room: "r"}, {at: 3, room: "r"}}, now: 6, want: 1},
		"DuringSweep": {reason: "Only the end of a sweep shows how much was lost together.",
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5, room: "r"}, {at: 7, room: "r", sweeping: true}}, now: 7, want: 1},
		"FewEndTogether": {reason: "Two calls that end at once are no reason for doubt.",
			lists: append(append(many(2), gone(2, 5, false)...), gone(2, 6, false)...), now: 6, want: 0},
		"AllLost": {reason: "A LiveKit that lost all rooms at once may have restarted: unknown, not zero.",
			lists: append(append(many(6), gone(6, 5, true)...), gone(6, 6, false)...), now: 7, want: -1},
		"AllLostForGood": {reason: "When the doubt is over and they are still gone, they are gone.",
			lists: append(append(many(6), gone(6, 5, true)...), gone(6, 16, false)...), now: 16, want: 0},
		"AllLostAndBack": {reason: "They came back within the doubt.",
			lists: append(append(many(6), gone(6, 5, true)...), func() []list {
				back := many(6)
				for i := range back {
					back[i].at = 8
				}
				return back
			}()...), now: 8, want: 6},
		"AfterOutage": {reason: "A call that is missing after an outage is unknown, even a single one.", outage: 5,
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5.1, room: "r"}, {at: 6.2, room: "r"}}, now: 7, want: -1},
		"AfterOutageForGood": {reason: "After the doubt it is over.", outage: 5,
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5.1, room: "r"}, {at: 15.1, room: "r"}}, now: 15.2, want: 0},
		"AfterOutageStillThere": {reason: "A call that outlived the outage is a call.", outage: 5,
			lists: []list{{at: 1, room: "r", agents: []livekit.Agent{a1}}, {at: 5.1, room: "r", agents: []livekit.Agent{a1}}}, now: 6, want: 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBook(testConfirm, testDoubt)
			for i, l := range tc.lists {
				if tc.outage > 0 && l.at >= tc.outage && (i == 0 || tc.lists[i-1].at < tc.outage) {
					b.outageOver(second(tc.outage))
				}
				b.apply(l.room, l.agents, second(l.at), l.sweeping, func(sid string) bool { return sid == l.left })
			}
			got := -1
			if n, known := b.reading(b.pods["pod-a"], second(0), second(tc.now)).Calls(); known {
				got = n
			}
			if got != tc.want {
				t.Errorf("%s pod-a holds %d, want %d", tc.reason, got, tc.want)
			}
			if b.unattributed != tc.unattributed {
				t.Errorf("%s unattributed = %d, want %d", tc.reason, b.unattributed, tc.unattributed)
			}
		})
	}
}

// TestBookNeverBelowTheTruth simulates random rooms, hides random participants from
// single lists, and checks after each that no pod reads fewer calls than it has had
// without interruption.
func TestBookNeverBelowTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := newBook(testConfirm, testDoubt)
	truth := map[string]types.UID{} // room → pod
	hidden := map[string]bool{}
	for step := range 20_000 {
		at := second(float64(step))
		room := fmt.Sprint("r", rng.IntN(30))
		switch rng.IntN(3) {
		case 0:
			truth[room] = types.UID(fmt.Sprint("pod-", rng.IntN(5)))
		case 1:
			delete(truth, room)
		}
		var agents []livekit.Agent
		if pod, ok := truth[room]; ok {
			// A list may be wrong, but not twice in a row about the same room.
			if hidden[room] = !hidden[room] && rng.IntN(4) == 0; !hidden[room] {
				agents = []livekit.Agent{{SID: fmt.Sprint(room, pod), Pod: pod}}
			}
		}
		b.apply(room, agents, at, false, func(string) bool { return false })
		want := map[types.UID]int{}
		for r, pod := range truth {
			if b.rooms[r] != nil && has(b.rooms[r].seats, fmt.Sprint(r, pod)) {
				want[pod]++
			}
		}
		for pod, n := range want {
			if got, known := b.reading(b.pods[pod], at, at).Calls(); known && got < n {
				t.Fatalf("step %d: %s reads %d, has %d", step, pod, got, n)
			}
		}
		if pod, ok := truth[room]; ok && !hidden[room] && !has(b.rooms[room].seats, fmt.Sprint(room, pod)) {
			t.Fatalf("step %d: the listed agent of %s is not in the book", step, room)
		}
	}
	checkSums(t, b)
}

func has(seats []seat, sid string) bool {
	for _, s := range seats {
		if s.SID == sid {
			return true
		}
	}
	return false
}

// checkSums recomputes the book's sums and compares.
func checkSums(t *testing.T, b *book) {
	t.Helper()
	seats, missing, unattributed := 0, 0, 0
	for _, entry := range b.rooms {
		for _, s := range entry.seats {
			seats++
			if !s.missing.IsZero() {
				missing++
			}
			if s.Pod == "" {
				unattributed++
			}
		}
	}
	if seats != b.seats || missing != b.missing || unattributed != b.unattributed {
		t.Errorf("sums are %d/%d/%d, the rooms say %d/%d/%d", b.seats, b.missing, b.unattributed, seats, missing, unattributed)
	}
}
