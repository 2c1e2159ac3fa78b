// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func seconds(n float64) Offset { return Offset(n * float64(time.Second)) }

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason string
		call   CallRecord
		want   Outcome
		late   bool
	}{
		"Completed": {
			reason: "The caller talked for as long as planned, from the answer on.",
			call:   CallRecord{Began: seconds(10), Answered: true, Answer: seconds(5), Length: seconds(20), Ended: seconds(35)}, want: Completed,
		},
		"CompletedLate": {
			reason: "A late answer is late, and the call is complete all the same.",
			call:   CallRecord{Began: seconds(10), Answered: true, Answer: seconds(16), Length: seconds(20), Ended: seconds(46)}, want: Completed, late: true,
		},
		"RoundedDown": {
			reason: "Clocks are read one after the other.",
			call:   CallRecord{Answered: true, Length: seconds(20), Ended: seconds(19.9)}, want: Completed,
		},
		"RunOver": {
			reason: "The run ended before the caller was done.",
			call:   CallRecord{Began: seconds(10), Answered: true, Answer: seconds(5), Length: seconds(20), Ended: seconds(30)}, want: EndedByCaller,
		},
		"Dropped": {
			reason: "A call that ended under its caller is dropped, also in its last moment.",
			call:   CallRecord{Answered: true, Length: seconds(20), Ended: seconds(20), Cause: "killed at the end of the termination grace"}, want: Dropped,
		},
		"AgentKilled": {
			reason: "The schedule itself ended it, and says so.",
			call:   CallRecord{Answered: true, Length: seconds(20), Ended: seconds(3), Cause: "agent process crashed", Lost: LostWithAgent}, want: LostWithAgent,
		},
		"AgentKilledBefore": {
			reason: "Of a killed agent nobody had the call yet: that is unanswered, not lost.",
			call:   CallRecord{Length: seconds(20), Ended: seconds(60), Lost: LostWithAgent}, want: Unanswered,
		},
		"StoppedBefore": {
			reason: "The run was over while the caller still waited.",
			call:   CallRecord{Length: seconds(20), Ended: seconds(3), Stopped: true}, want: EndedByCaller,
		},
		"Unanswered": {
			reason: "Nobody came, however long that took.",
			call:   CallRecord{Length: seconds(20), Ended: seconds(60), Answer: seconds(60)}, want: Unanswered,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.call.Outcome(); got != tc.want || tc.call.Late() != tc.late {
				t.Errorf("%s It is %s, late %t; want %s, %t", tc.reason, got, tc.call.Late(), tc.want, tc.late)
			}
		})
	}
}

func TestSum(t *testing.T) {
	t.Parallel()
	done := CallRecord{N: 0, Node: "node-1", Began: 0, Answered: true, Answer: seconds(1), Length: seconds(39), Ended: seconds(40)}
	late := CallRecord{N: 1, Node: "node-2", Began: seconds(5), Answered: true, Answer: seconds(20), Length: seconds(5), Ended: seconds(30)}
	dropped := CallRecord{N: 2, Node: "node-2", Began: seconds(40), Answered: true, Answer: seconds(2), Length: seconds(50), Ended: seconds(60), Cause: "node gone"}
	missed := CallRecord{N: 3, Began: seconds(10), Length: seconds(5), Ended: seconds(55), Able: true}
	nobody := CallRecord{N: 4, Began: seconds(10), Length: seconds(5), Ended: seconds(50)}
	got := Sum([]CallRecord{done, late, dropped, missed, nobody}, []DrainRecord{
		{Node: "node-2", Began: seconds(50), Ended: seconds(52), Tries: 1},
		{Node: "node-4", Began: seconds(55), Ended: seconds(56), Cut: true, Tries: 1},
		{Node: "node-1", Began: seconds(10), Ended: seconds(48), Done: true, Tries: 1},
		{Node: "node-3", Began: seconds(20), Ended: seconds(24), Done: true, Tries: 2},
	}, []StepRecord{
		{Step: Step{At: seconds(21), Kind: KillGuard}, Ended: seconds(22)},
		{Step: Step{At: seconds(41), Kind: RollOut}, Ended: seconds(42)},
		{Step: Step{At: seconds(43), Kind: KillGate}, Ended: seconds(43), Passed: true},
	})
	want := Account{
		Calls: 5, Outcomes: map[Outcome]int{Completed: 2, EndedByCaller: 0, Dropped: 1, LostWithAgent: 0, LostWithNode: 0, LostWithoutGuard: 0, Unanswered: 2},
		Late: 1, Answerable: 1, Most: 4,
		Wrong:  []CallRecord{nobody, missed, dropped},
		Answer: Spread{Count: 3, Median: seconds(2), P90: seconds(20), P99: seconds(20), Most: seconds(20)},
		Tails: []Tail{
			{DrainRecord: DrainRecord{Node: "node-1", Began: seconds(10), Ended: seconds(48), Done: true, Tries: 1}, Calls: 1, LastCall: seconds(40), Tail: seconds(8)},
			{DrainRecord: DrainRecord{Node: "node-3", Began: seconds(20), Ended: seconds(24), Done: true, Tries: 2}, LastCall: seconds(20), Tail: seconds(4), Fault: true},
			{DrainRecord: DrainRecord{Node: "node-2", Began: seconds(50), Ended: seconds(52), Tries: 1}, Calls: 1, LastCall: seconds(60)},
			{DrainRecord: DrainRecord{Node: "node-4", Began: seconds(55), Ended: seconds(56), Cut: true, Tries: 1}, LastCall: seconds(55), Tail: seconds(1)},
		},
		Tail:        Spread{Count: 2, Median: seconds(4), P90: seconds(8), P99: seconds(8), Most: seconds(8)},
		Undisturbed: Spread{Count: 1, Median: seconds(8), P90: seconds(8), P99: seconds(8), Most: seconds(8)},
		Undone:      1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the account is wrong (-want +got):\n%s", diff)
	}
}

// TestTailOfADrain has calls before, in and after a drain, and beside it.
func TestTailOfADrain(t *testing.T) {
	t.Parallel()
	drain := DrainRecord{Node: "a", Began: seconds(100), Ended: seconds(160), Done: true}
	for name, tc := range map[string]struct {
		reason string
		call   CallRecord
		want   Offset
	}{
		"Before":    {reason: "It was over when the drain began.", call: CallRecord{Node: "a", Began: seconds(1), Ended: seconds(99)}, want: seconds(60)},
		"Within":    {reason: "It kept the drain until it was over.", call: CallRecord{Node: "a", Began: seconds(1), Ended: seconds(150)}, want: seconds(10)},
		"Joined":    {reason: "It came while the pod still took calls.", call: CallRecord{Node: "a", Began: seconds(103), Ended: seconds(155)}, want: seconds(5)},
		"Elsewhere": {reason: "Other nodes' calls keep no drain.", call: CallRecord{Node: "b", Began: seconds(1), Ended: seconds(150)}, want: seconds(60)},
		"After":     {reason: "The node is open again.", call: CallRecord{Node: "a", Began: seconds(170), Ended: seconds(190)}, want: seconds(60)},
		"Outlived":  {reason: "A drain that ended before its call has no tail; the call tells what that was.", call: CallRecord{Node: "a", Began: seconds(1), Ended: seconds(170)}, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tailOf(drain, []CallRecord{tc.call}, nil).Tail; got != tc.want {
				t.Errorf("%s The tail is %s; want %s", tc.reason, got, tc.want)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	var all []Offset
	for n := range 200 {
		all = append(all, seconds(float64(200-n)))
	}
	want := Spread{Count: 200, Median: seconds(100), P90: seconds(180), P99: seconds(198), Most: seconds(200)}
	if diff := cmp.Diff(want, spreadOf(all)); diff != "" {
		t.Errorf("200 lengths are spread wrongly (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Spread{}, spreadOf(nil)); diff != "" {
		t.Errorf("no length is spread (-want +got):\n%s", diff)
	}
}

func TestTailsHaveALimit(t *testing.T) {
	t.Parallel()
	drain := func(tail float64, fault, done bool) Tail {
		return Tail{DrainRecord: DrainRecord{Node: "node-1", Began: seconds(50), Done: done}, Tail: seconds(tail), Fault: fault}
	}
	for name, tc := range map[string]struct {
		reason string
		tails  []Tail
		want   []string
	}{
		"Within":    {reason: "As long as is allowed is not too long.", tails: []Tail{drain(20, false, true)}},
		"TooLong":   {reason: "Each drain is held to it.", tails: []Tail{drain(1, false, true), drain(20.5, false, true)}, want: []string{"the drain of node-1 at 50s was 20.5s longer than its longest call, without a fault; 20s is allowed"}},
		"Fault":     {reason: "A drain waits while nobody can judge its pods.", tails: []Tail{drain(1, false, true), drain(60, true, true)}},
		"NotEnded":  {reason: "One that did not end is told by Judge.", tails: []Tail{drain(1, false, true), drain(60, false, false)}},
		"NoneKnown": {reason: "Drains that all had a fault show nothing.", tails: []Tail{drain(1, true, true)}, want: []string{"none of 1 drain ended without a fault after its longest call, so nothing is known about the limit of 20s; use a longer run, or another seed"}},
		"NoDrain":   {reason: "No drain shows nothing, either.", want: []string{"none of 0 drains ended without a fault after its longest call, so nothing is known about the limit of 20s; use a longer run, or another seed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := Account{Tails: tc.tails}
			for _, tail := range tc.tails {
				if tail.Done && !tail.Fault {
					a.Undisturbed.Count++
				}
			}
			got := a.JudgeTails(seconds(20))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
