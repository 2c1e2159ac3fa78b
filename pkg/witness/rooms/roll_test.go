// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

// TestRoll has lists and reads of two rooms, and checks what is read next and as of which
// second all rooms are known.
func TestRoll(t *testing.T) {
	silent := errors.New("none of its nodes answers")
	const patience = 5 * time.Second
	type step struct {
		at            float64
		list          string // the rooms, and their publishers
		room          string // otherwise a room that is read
		err           error
		counts, quiet int    // participants in it: publishers, and agents that do not publish
		hook          string // otherwise a room that a webhook names
	}
	both := []step{{at: 1, list: "a1 b1"}, {at: 2, room: "a", counts: 1}, {at: 3, room: "b", counts: 1}, {at: 11, list: "a1 b1"}}
	then := func(more ...step) []step { return append(slices.Clip(both), more...) }
	cases := map[string]struct {
		reason       string
		hints        bool
		steps        []step
		now          float64
		must, others []string
		whole        float64
		unread       int
		failing      float64 // as of when b, which cannot be read, is known
	}{
		"NotYet":  {reason: "Of rooms that were never read nothing is known.", hints: true, steps: both[:1], now: 1, must: []string{"a", "b"}, whole: -1},
		"Half":    {reason: "Nor of all, when one was.", hints: true, steps: both[:2], now: 2, must: []string{"b"}, others: []string{"a"}, whole: -1},
		"Read":    {reason: "All were read after the list.", hints: true, steps: both[:3], now: 3, others: []string{"a", "b"}, whole: 1},
		"Same":    {reason: "The list says the same again: it counts as a read.", hints: true, steps: both, now: 11, others: []string{"a", "b"}, whole: 11},
		"Strict":  {reason: "Without hints only a read counts.", steps: both, now: 11, must: []string{"a", "b"}, whole: 2},
		"Changed": {reason: "An agent publishes: the room is first, and not known since.", hints: true, steps: then(step{at: 21, list: "a1 b2"}), now: 21, must: []string{"b"}, others: []string{"a"}, whole: 3},
		"New":     {reason: "There was no such room when the list before was asked for.", hints: true, steps: then(step{at: 21, list: "a1 b1 c0"}), now: 21, must: []string{"c"}, others: []string{"a", "b"}, whole: 11},
		"Gone":    {reason: "A room with agents that the list lacks is read.", hints: true, steps: then(step{at: 21, list: "a1"}), now: 21, must: []string{"b"}, others: []string{"a"}, whole: 3},
		"Webhook": {reason: "A webhook knows more than the list.", hints: true, steps: then(step{hook: "a"}), now: 12, must: []string{"a"}, others: []string{"b"}, whole: 2},
		"Counted": {reason: "A webhook caused a read, and the list arrives with the same content.", hints: true, steps: then(step{hook: "b"}, step{at: 12, room: "b", counts: 2}, step{at: 21, list: "a1 b2"}),
			now: 21, others: []string{"a", "b"}, whole: 21},
		"Publishes": {reason: "Its agent has begun to publish since.", hints: true, steps: then(step{at: 12, room: "b", counts: 1, quiet: 1}, step{at: 13, list: "a1 b1"}, step{at: 18, list: "a1 b2"}),
			now: 18, others: []string{"a", "b"}, whole: 18},
		"Another": {reason: "One more than that publishes.", hints: true, steps: then(step{at: 12, room: "b", counts: 1, quiet: 1}, step{at: 18, list: "a1 b3"}),
			now: 18, must: []string{"b"}, others: []string{"a"}, whole: 12},
		"CountedOnce": {reason: "The list has said so, and says something else.", hints: true, steps: then(step{at: 12, room: "b", counts: 2}, step{at: 21, list: "a1 b2"}, step{at: 31, list: "a1 b1"}),
			now: 31, must: []string{"b"}, others: []string{"a"}, whole: 12},
		"LateRead": {reason: "A read that began before the list may not have seen the list's changes.", hints: true, steps: then(step{at: 21, list: "a2 b1"}, step{at: 20, room: "a", counts: 1}), now: 21, must: []string{"a"}, others: []string{"b"}, whole: 20},
		"Silent":   {reason: "For a moment, a room that cannot be read holds all up.", steps: then(step{at: 12, room: "a"}, step{at: 12, room: "b", err: silent}), now: 13, must: []string{"a"}, others: []string{"b"}, whole: 3, failing: 3},
		"SilentOn": {reason: "Then it is its own seats' matter.", steps: then(step{at: 12, room: "a"}, step{at: 12, room: "b", err: silent}), now: 18, must: []string{"a"}, others: []string{"b"}, whole: 11, failing: 3},
		"Once": {reason: "The list vouched for it until it could not be read.", hints: true, steps: then(step{at: 12, room: "b", err: silent}, step{at: 21, list: "a1 b1"}, step{at: 22, room: "b", err: silent}),
			now: 23, others: []string{"b", "a"}, whole: 21, failing: 11},
		"ChangedAndSilent": {reason: "It did not: something had changed.", hints: true, steps: then(step{at: 21, list: "a1 b2"}, step{at: 22, room: "b", err: silent}),
			now: 23, others: []string{"b", "a"}, whole: 3, failing: 3},
		"NeverRead": {reason: "A room that could never be read is counted.", steps: then(step{at: 21, list: "a1 b1 c0"}, step{at: 22, room: "a"}, step{at: 22, room: "b"}, step{at: 22, room: "c", err: silent}),
			now: 30, must: []string{"a", "b"}, others: []string{"c"}, whole: 21, unread: 1},
		"Mended": {reason: "It can be read again.", hints: true, steps: then(step{at: 12, room: "b", err: silent}, step{at: 20, room: "b"}), now: 20, others: []string{"a", "b"}, whole: 11},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRoll(tc.hints)
			for _, s := range tc.steps {
				switch {
				case s.list != "":
					var rooms []livekit.RoomInfo
					for i := 0; i < len(s.list); i += 3 {
						rooms = append(rooms, livekit.RoomInfo{Name: s.list[i : i+1], NumPublishers: int(s.list[i+1] - '0')})
					}
					r.list(rooms, second(s.at), func(string) bool { return true })
				case s.hook != "":
					r.name(s.hook)
				default:
					r.asked(s.room, second(s.at), livekit.Counts{Publishers: s.counts, Quiet: s.quiet}, s.err)
				}
			}
			must, others := r.todo(16)
			if diff := cmp.Diff([][]string{tc.must, tc.others}, [][]string{must, others}); diff != "" {
				t.Errorf("%s to be read: -want, +got:\n%s", tc.reason, diff)
			}
			got := -1.0
			if whole := r.whole(patience, second(tc.now)); !whole.IsZero() {
				got = whole.Sub(second(0)).Seconds()
			}
			if got != tc.whole {
				t.Errorf("%s known as of %v, want %v", tc.reason, got, tc.whole)
			}
			if _, known, err := r.failing("b"); err != nil && !known.Equal(second(tc.failing)) || err == nil && tc.failing != 0 {
				t.Errorf("%s b is known as of %v, want %v", tc.reason, known.Sub(second(0)).Seconds(), tc.failing)
			}
			if n := r.unread(patience, second(tc.now)); n != tc.unread {
				t.Errorf("%s %d rooms could never be read, want %d", tc.reason, n, tc.unread)
			}
		})
	}
}

// TestReadingCostsItsPod: the number of a project's rooms does not affect the reading of a
// pod, which every answer to an autoscaler needs for each pod.
func TestReadingCostsItsPod(t *testing.T) {
	cost := func(rooms int) time.Duration {
		r := NewReader(Config{Settings: Settings{Resync: 15 * time.Second, MaxStaleness: 45 * time.Second}})
		list := make([]livekit.RoomInfo, rooms)
		for i := range list {
			list[i] = livekit.RoomInfo{Name: fmt.Sprint(i), SID: fmt.Sprint("RM_", i)}
		}
		now := time.Now()
		r.roll.list(list, now, func(string) bool { return false })
		return trial.Spent(t, func() {
			for i := range 2000 {
				at := now.Add(time.Duration(i))
				_, _ = r.Reading("pod", at), r.Unread(at)
			}
		})
	}
	cost(10)
	if few, many := cost(10), cost(50_000); many > 20*few {
		t.Errorf("2,000 readings take %s with 10 rooms and %s with 50,000", few, many)
	}
}

// TestEventsThatMatter: of all LiveKit's events about a call, in their order, those of its
// agent cause its room to be read: it joins, publishes, and leaves.
func TestEventsThatMatter(t *testing.T) {
	for _, tc := range []struct {
		reason string
		event  Event
		seats  bool
		reads  bool
	}{
		{"Nobody is in it yet.", Event{Name: "room_started"}, false, false},
		{"A caller is no agent.", Event{Name: "participant_joined"}, false, false},
		{"This is one.", Event{Name: "participant_joined", Agent: true}, false, true},
		{"A caller's voice says nothing of agents.", Event{Name: "track_published"}, true, false},
		{"An agent may have said since whose it is.", Event{Name: "track_published", Agent: true}, true, true},
		{"That is known.", Event{Name: "track_published", Agent: true, Participant: "PA_known"}, true, false},
		{"It is there still.", Event{Name: "track_unpublished", Agent: true}, true, false},
		{"It has left.", Event{Name: "participant_left", Agent: true}, true, true},
		{"Its connection broke.", Event{Name: "participant_connection_aborted", Agent: true}, true, true},
		{"A caller hangs up.", Event{Name: "participant_left"}, true, false},
		{"Its agents were seen to leave.", Event{Name: "room_finished"}, false, false},
		{"Somebody was in it that nobody saw leave.", Event{Name: "room_finished"}, true, true},
		{"A recording has nobody in it.", Event{Name: "egress_ended"}, true, false},
		{"What a later LiveKit tells of an agent may matter.", Event{Name: "participant_moved", Agent: true}, true, true},
	} {
		if got := tc.event.matters(tc.seats, tc.event.Participant == "PA_known"); got != tc.reads {
			t.Errorf("%s %+v: its room is read: %t, want %t", tc.reason, tc.event, got, tc.reads)
		}
	}
}
