// SPDX-License-Identifier: Apache-2.0

package witness

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// TestACallThatOnlyLiveKitKnows has a pod of which LiveKit lists a call, once a minute
// from minute 1 on. A LiveKit with Redis that was killed lists it forever.
func TestACallThatOnlyLiveKitKnows(t *testing.T) {
	minute := func(n int) time.Time { return time.Date(2026, 1, 1, 12, n, 0, 0, time.UTC) }
	joined := minute(0)
	listed := func(n int, newest time.Time) func(int) call.Reading {
		return func(at int) call.Reading { return call.Known(n, minute(at)).WithNewest(newest) }
	}
	says := func(n int) func(int) call.Reading {
		return func(at int) call.Reading { return call.Known(n, minute(at)) }
	}
	silent := func(int) call.Reading { return call.Unknown("it is silent") }
	// from returns one reading until the minute, and another from then on.
	from := func(m int, before, after func(int) call.Reading) func(int) call.Reading {
		return func(at int) call.Reading {
			if at < m {
				return before(at)
			}
			return after(at)
		}
	}
	cases := map[string]struct {
		reason       string
		rooms, other func(int) call.Reading
		unseen       map[int]bool // minutes without a reading
		at           int
		want         int // -1 is unknown
	}{
		"Young":      {reason: "A list may be ahead of the agent for a while.", rooms: listed(1, joined), other: says(0), at: 5, want: 1},
		"Old":        {reason: "The agent has known of none for five minutes: it is over.", rooms: listed(1, joined), other: says(0), at: 6, want: 0},
		"Both":       {reason: "A call that both know is one.", rooms: listed(1, joined), other: says(1), at: 60, want: 1},
		"Ended":      {reason: "Five minutes from the agent's first zero.", rooms: listed(1, joined), other: from(10, says(1), says(0)), at: 14, want: 1},
		"EndedLong":  {reason: "And then it is over.", rooms: listed(1, joined), other: from(10, says(1), says(0)), at: 15, want: 0},
		"Silent":     {reason: "Unknown is not zero.", rooms: listed(1, joined), other: silent, at: 60, want: 1},
		"SilentNow":  {reason: "Nor does an old zero count.", rooms: listed(1, joined), other: from(5, says(0), silent), at: 60, want: 1},
		"NewCall":    {reason: "Another call may be known a moment later; all count again.", rooms: from(8, listed(1, joined), listed(2, minute(8))), other: says(0), at: 9, want: 2},
		"Reconnect":  {reason: "Its agent is in LiveKit's hands, and has just joined.", rooms: from(8, listed(1, joined), listed(1, minute(8))), other: says(0), at: 9, want: 1},
		"NobodyLook": {reason: "What happened between two readings is unknown.", rooms: listed(1, joined), other: says(0), unseen: map[int]bool{3: true, 4: true, 5: true}, at: 7, want: 1},
		"RoomsGone":  {reason: "LiveKit knows it now.", rooms: from(4, listed(1, joined), says(0)), other: says(0), at: 9, want: 0},
		"RoomsBlind": {reason: "LiveKit does not answer, and the agent does.", rooms: silent, other: says(0), at: 9, want: 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var now, told int
			rooms, other := witness(func() call.Reading { return tc.rooms(now) }), witness(func() call.Reading { return tc.other(now) })
			l := New(rooms, other, other, func(*call.Pod) { told++ })
			pod := &call.Pod{UID: "uid", Running: true, Witnesses: call.DefaultWitnesses()}
			got := -1
			for now = 1; now <= tc.at; now++ {
				if tc.unseen[now] {
					continue
				}
				got = -1
				if n, known := l.Reading(pod, minute(now)).Calls(); known {
					got = n
				}
			}
			if got != tc.want {
				t.Errorf("%s %d calls, want %d", tc.reason, got, tc.want)
			}
			if told > 1 {
				t.Errorf("it was reported %d times", told)
			}
		})
	}
}

// TestDisbelievedCallsAreCounted: they are counted, their pods get an Event once, and are
// forgotten.
func TestDisbelievedCallsAreCounted(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	two := witness(func() call.Reading { return call.Known(2, now) })
	none := witness(func() call.Reading { return call.Known(0, now) })
	told := 0
	l := New(two, none, none, func(*call.Pod) { told++ })
	pods := []*call.Pod{{UID: "a", Running: true, Witnesses: call.DefaultWitnesses()}}
	c := NewCollector(l, func() []*call.Pod { return pods }, func() time.Time { return now })
	count := func(want string) {
		t.Helper()
		text := "# HELP callguard_disbelieved_calls Calls in LiveKit's list that the pod's agent or call-gate has not known for 5 minutes. They do not count; the log names their rooms.\n" +
			"# TYPE callguard_disbelieved_calls gauge\ncallguard_disbelieved_calls " + want + "\n"
		if err := testutil.CollectAndCompare(c, strings.NewReader(text), "callguard_disbelieved_calls"); err != nil {
			t.Error(err)
		}
	}
	for look := range 12 {
		now = now.Add(30 * time.Second)
		want := "0"
		if look >= 10 {
			want = "2"
		}
		count(want)
	}
	if told != 1 {
		t.Errorf("it was reported %d times", told)
	}
	pods = []*call.Pod{{UID: "b", Running: true, Witnesses: call.DefaultWitnesses()}}
	now = now.Add(time.Hour)
	count("0")
	if len(l.doubts.pods) != 1 {
		t.Errorf("%d pods are remembered", len(l.doubts.pods))
	}
}

// TestManyBeginAtOnce: a LiveKit that was killed contradicts all pods that held calls, at
// once. The cost grows linearly with their number, not quadratically.
func TestManyBeginAtOnce(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	two := witness(func() call.Reading { return call.Known(2, now) })
	none := witness(func() call.Reading { return call.Known(0, now) })
	cost := func(n int) time.Duration {
		l := New(two, none, none, func(*call.Pod) {})
		pods := make([]*call.Pod, n)
		for i := range pods {
			pods[i] = &call.Pod{UID: types.UID(fmt.Sprint(i)), Running: true, Witnesses: call.DefaultWitnesses()}
		}
		return trial.Spent(t, func() {
			for _, pod := range pods {
				l.Reading(pod, now)
			}
		})
	}
	cost(2_000)
	if few, many := cost(2_000), cost(20_000); many > 40*few {
		t.Errorf("2,000 pods that begin to be contradicted take %s of a processor's time, 20,000 take %s", few, many)
	}
}

// witness answers the same for every pod.
type witness func() call.Reading

func (w witness) Reading(*call.Pod, time.Time) call.Reading { return w() }
func (w witness) Fresh(call.Project, time.Time) error       { return nil }
