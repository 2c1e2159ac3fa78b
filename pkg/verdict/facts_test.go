// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"strings"
	"testing"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// TestIdle: a pod is idle if it is known to hold no call, and only then.
func TestIdle(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	said := func(readings ...call.Reading) (list []Reading) {
		for i, r := range readings {
			list = append(list, Reading{Witness: call.DefaultWitnesses()[i], Reading: r})
		}
		return list
	}
	for reason, tc := range map[string]struct {
		running  bool
		readings []Reading
		want     bool
	}{
		"All say zero.":                  {true, said(call.Known(0, at), call.Known(0, at)), true},
		"One counts a call.":             {true, said(call.Known(0, at), call.Known(1, at)), false},
		"One does not answer.":           {true, said(call.Known(0, at), call.Unknown("no route")), false},
		"Nobody was asked.":              {true, nil, false},
		"Nothing runs that holds calls.": {false, nil, true},
	} {
		if got := (Facts{Pod: Pod{Running: tc.running}, Readings: tc.readings}).Idle(); got != tc.want {
			t.Errorf("%s It is idle: %t; want %t", reason, got, tc.want)
		}
	}
}

// TestOverdue: which deadline has passed for a pod that should have left for an hour.
func TestOverdue(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	facts := func(change func(*Facts)) Facts {
		f := Facts{Now: now, Since: now.Add(-time.Hour), Standing: now.Add(-time.Hour)}
		change(&f)
		return f
	}
	for reason, tc := range map[string]struct {
		facts Facts
		want  string
	}{
		"There is none.":                {facts(func(*Facts) {}), ""},
		"The administrator's, now.":     {facts(func(f *Facts) { f.Limits.MaxHold = time.Hour }), "--max-hold"},
		"The administrator's, later.":   {facts(func(f *Facts) { f.Limits.MaxHold = time.Hour + 1 }), ""},
		"The team's, now.":              {facts(func(f *Facts) { f.Deadline = call.Deadline{After: time.Hour, Release: true} }), "drain-deadline"},
		"The team's, later.":            {facts(func(f *Facts) { f.Deadline = call.Deadline{After: time.Hour + 1, Release: true} }), ""},
		"The team's, which only warns.": {facts(func(f *Facts) { f.Deadline = call.Deadline{After: time.Hour} }), ""},
		"Its node ends now.":            {facts(func(f *Facts) { f.LetGoBy = now }), "--node-termination-limit"},
		"Its node ends later.":          {facts(func(f *Facts) { f.LetGoBy = now.Add(1) }), ""},
		"The drain was cancelled.":      {facts(func(f *Facts) { f.Standing, f.Limits.MaxHold = time.Time{}, time.Hour }), ""},
	} {
		if got := tc.facts.Overdue(); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s The passed deadline is %q; want %q", reason, got, tc.want)
		}
	}
}

// TestFloor checks the floors cell by cell. A row is an intent; its columns are floors of
// workloads of 0, 1 and 4 replicas without a minimum of their own, and of 4 with a minimum
// of 0, 2 and 9.
func TestFloor(t *testing.T) {
	workloads := []Workload{
		{Desired: 0, MinAvailable: 0},
		{Desired: 1, MinAvailable: 1},
		{Desired: 4, MinAvailable: 4},
		{Desired: 4, MinAvailable: 0},
		{Desired: 4, MinAvailable: 2},
		{Desired: 4, MinAvailable: 9},
	}
	const movable, inPlace = false, true
	cases := []struct {
		reason  string
		intent  call.Intent
		inPlace bool
		want    [6]int
	}{
		{"All that are desired, or the minimum that was given: its replacement comes first.", call.NodeDrain, movable, [6]int{0, 1, 4, 0, 2, 4}},
		{"One fewer: it is missing while it is replaced.", call.NodeDrain, inPlace, [6]int{0, 0, 3, 0, 2, 3}},
		{"A lost node is a drain by itself.", call.LostNode, movable, [6]int{0, 1, 4, 0, 2, 4}},
		{"A lost node is a drain by itself.", call.LostNode, inPlace, [6]int{0, 0, 3, 0, 2, 3}},
		{"An operator's wish is a drain of one pod.", call.Operator, movable, [6]int{0, 1, 4, 0, 2, 4}},
		{"An operator's wish is a drain of one pod.", call.Operator, inPlace, [6]int{0, 0, 3, 0, 2, 3}},
		{"The others are all that are wanted; a minimum beyond them could never be met.", call.ScaleDown, movable, [6]int{0, 1, 4, 0, 2, 4}},
		{"Nothing replaces a pod too many, so nobody is missing meanwhile.", call.ScaleDown, inPlace, [6]int{0, 1, 4, 0, 2, 4}},
		{"The new revision takes the calls before the old one stops.", call.Rollout, movable, [6]int{0, 1, 4, 0, 2, 4}},
		{"A StatefulSet's pod has to go before its successor comes.", call.Rollout, inPlace, [6]int{0, 0, 3, 0, 2, 3}},
		{"Nobody wants any pod of it.", call.Orphan, movable, [6]int{}},
		{"Nobody wants any pod of it.", call.Orphan, inPlace, [6]int{}},
	}
	for _, tc := range cases {
		for i, w := range workloads {
			if got := Floor(tc.intent, w, tc.inPlace); got != tc.want[i] {
				t.Errorf("Floor(%s, desired %d, minimum %d, in place %t) = %d, want %d: %s",
					tc.intent, w.Desired, w.MinAvailable, tc.inPlace, got, tc.want[i], tc.reason)
			}
		}
	}
}

// TestFloorOfARollout: some replicas of a Deployment may be unavailable during a rollout,
// as without callguard.
func TestFloorOfARollout(t *testing.T) {
	for reason, tc := range map[string]struct {
		w       Workload
		inPlace bool
		want    int
	}{
		"It does without one.":                       {w: Workload{Desired: 4, MinAvailable: 4, MaxUnavailable: 1}, want: 3},
		"It does without all.":                       {w: Workload{Desired: 2, MinAvailable: 2, MaxUnavailable: 2}},
		"The team has said how many it needs.":       {w: Workload{Desired: 4, MinAvailable: 2, MaxUnavailable: 1}, want: 2},
		"A StatefulSet that replaces two at once.":   {w: Workload{Desired: 4, MinAvailable: 4, MaxUnavailable: 2}, inPlace: true, want: 2},
		"One is missing in place whatever is said.":  {w: Workload{Desired: 4, MinAvailable: 4}, inPlace: true, want: 3},
		"A percentage of few is none, and so is it.": {w: Workload{Desired: 2, MinAvailable: 2}, want: 2},
	} {
		if got := Floor(call.Rollout, tc.w, tc.inPlace); got != tc.want {
			t.Errorf("%s Floor of %+v is %d, want %d", reason, tc.w, got, tc.want)
		}
		if got := Floor(call.NodeDrain, tc.w, false); got != min(tc.w.Desired, tc.w.MinAvailable) {
			t.Errorf("%s A drain is no rollout: floor of %+v is %d", reason, tc.w, got)
		}
	}
}

func TestFloorOfRecreate(t *testing.T) {
	w := Workload{Desired: 4, MinAvailable: 4, Recreate: true}
	cases := map[call.Intent]struct {
		reason string
		want   int
	}{
		call.Rollout:   {"Recreate wants all old pods gone before any new one.", 0},
		call.ScaleDown: {"A smaller Deployment is no rollout.", 4},
		call.NodeDrain: {"A drain takes one at a time.", 3},
		call.LostNode:  {"A lost node is a drain by itself.", 3},
		call.Operator:  {"An operator's wish is a drain of one pod.", 3},
		call.Orphan:    {"Nobody wants any pod of it.", 0},
	}
	for intent, tc := range cases {
		if got := Floor(intent, w, true); got != tc.want {
			t.Errorf("Floor(%s) = %d, want %d: %s", intent, got, tc.want, tc.reason)
		}
	}
}

// TestFloorCanBeMet checks what all cells have in common: a workload that has all it wants
// besides the pod, or all but the pod if that cannot be replaced first, is never stuck.
func TestFloorCanBeMet(t *testing.T) {
	for _, intent := range call.Intents() {
		for desired := range 5 {
			for minimum := range 7 {
				for _, inPlace := range []bool{false, true} {
					for _, recreate := range []bool{false, true} {
						w := Workload{Desired: desired, MinAvailable: minimum, Recreate: recreate}
						most := min(desired, minimum)
						if inPlace && intent != call.ScaleDown {
							most = min(most, max(0, desired-1))
						}
						if got := Floor(intent, w, inPlace); got < 0 || got > most {
							t.Errorf("Floor(%s, %+v, in place %t) = %d, want 0 to %d", intent, w, inPlace, got, most)
						}
					}
				}
			}
		}
	}
}
