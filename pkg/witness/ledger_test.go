// SPDX-License-Identifier: Apache-2.0

package witness

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
)

func TestMerge(t *testing.T) {
	early := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	late := early.Add(time.Minute)
	down, silent := call.Unknown("LiveKit is down"), call.Unknown("the agent is silent")
	cases := map[string]struct {
		reason     string
		a, b, want call.Reading
	}{
		"LargestWins":      {"A job that has not joined its room yet counts.", call.Known(1, late), call.Known(2, early), call.Known(2, early)},
		"EqualOlder":       {"Of two equal numbers the older time is the honest one.", call.Known(2, late), call.Known(2, early), call.Known(2, early)},
		"OneUnknown":       {"One witness that knows is enough for scaling.", down, call.Known(3, early), call.Known(3, early)},
		"UnknownIsNotZero": {"An unknown witness does not make a zero of the other's number.", call.Known(3, early), silent, call.Known(3, early)},
		"BothUnknown":      {"Nobody knows: unknown, with both reasons.", down, silent, call.Unknown("LiveKit is down; the agent is silent")},
		"BothIdle":         {"Known to be idle.", call.Known(0, early), call.Known(0, late), call.Known(0, early)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, order := range []call.Reading{Merge(tc.a, tc.b), Merge(tc.b, tc.a)} {
				if order.Known() != tc.want.Known() {
					t.Fatalf("%s known = %t", tc.reason, order.Known())
				}
			}
			if diff := cmp.Diff(tc.want, Merge(tc.a, tc.b), cmp.AllowUnexported(call.Reading{})); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

type says map[string]call.Reading

func (s says) Reading(p *call.Pod, _ time.Time) call.Reading { return s[p.Name] }
func (s says) Fresh(call.Project, time.Time) error           { return nil }

func TestReadingAsksThePodsOwnWitnesses(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	l := New(says{"p": call.Known(1, now)}, says{"p": call.Known(5, now)}, says{"p": call.Known(7, now)}, func(*call.Pod) {})
	cases := map[string]struct {
		pod  call.Pod
		want int
	}{
		"Both":       {call.Pod{Running: true, Witnesses: call.DefaultWitnesses()}, 5},
		"RoomsAlone": {call.Pod{Running: true, Witnesses: []call.Witness{call.Rooms}}, 1},
		"Gate":       {call.Pod{Running: true, Witnesses: []call.Witness{call.Rooms, call.Gate}}, 7},
		"NotRunning": {call.Pod{Witnesses: call.DefaultWitnesses()}, 0},
	}
	for name, tc := range cases {
		tc.pod.Name = "p"
		if got, known := l.Reading(&tc.pod, now).Calls(); !known || got != tc.want {
			t.Errorf("%s: %d, %t; want %d", name, got, known, tc.want)
		}
	}
	nobody := call.Pod{Running: true}
	if l.Reading(&nobody, now).Known() {
		t.Error("a running pod without a witness must be unknown")
	}
}
