// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func threeSides() []sideView {
	pod := func(node, state string, calls int64) podRow {
		return podRow{Node: node, State: state, Calls: reading{N: calls}}
	}
	return []sideView{
		{Title: "callguard", Node: "node-1", Other: "node-2", Guarded: true, Calls: 8, Pods: []podRow{
			pod("node-1", "draining", 2), pod("node-1", "draining", 1), pod("node-2", "serving", 3), pod("node-2", "serving", 2), pod("node-2", "serving", 0),
		}},
		{Title: "PDB, 30 s grace", Node: "node-3", Other: "node-4", Calls: 4, Dropped: 4, Over: true, Took: 31 * time.Second, Pods: []podRow{
			pod("node-4", "serving", 3), {Node: "node-4", State: "serving", Calls: reading{Why: "unknown"}},
		}},
		{Title: "PDB, 1 h grace", Node: "node-5", Other: "node-6", Calls: 8, Unanswered: 2, Pods: []podRow{
			pod("node-5", "finishing", 4), pod("node-6", "serving", 4),
		}},
	}
}

func TestDrainTable(t *testing.T) {
	want := `callguard demo, second act: kubectl drain in mid-call  00:35  (Ctrl-C ends it)

callguard         calls up 8, lost 0, unanswered 0
  node-1  draining ●●  draining ●
  node-2  serving ●●●  serving ●●  serving -
  drain   waits for 3 calls in 2 pods

PDB, 30 s grace   calls up 4, lost 4, unanswered 0
  node-3  empty
  node-4  serving ●●●  serving ?
  drain   ended after 00:31

PDB, 1 h grace    calls up 8, lost 0, unanswered 2
  node-5  finishing ●●●●
  node-6  serving ●●●●
  drain   waits for 4 calls in 1 pods
`
	if diff := cmp.Diff(want, drainTable(35*time.Second, threeSides(), 0, 0)); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
}

// TestWhatItSaysFitsAnOrdinaryTerminal is about 80 columns, of which a line elsewhere gives seven to the time.
func TestWhatItSaysFitsAnOrdinaryTerminal(t *testing.T) {
	waiting := func(guarded bool, states ...string) sideView {
		v := sideView{Title: "callguard", Node: "node-1", Other: "node-2", Guarded: guarded, Calls: 88, Dropped: 88, Unanswered: 88}
		if !guarded {
			v.Title = "PDB, 30 s grace"
		}
		for _, s := range states {
			v.Pods = append(v.Pods, podRow{Node: "node-1", State: s})
		}
		return v
	}
	views := append(threeSides(), waiting(true), waiting(false), waiting(true, "draining", "draining"),
		waiting(true, "released", "released"), waiting(false, "finishing", "finishing"))
	lines := drainLines(views)
	for i, l := range lines {
		lines[i] = "00:00  " + l
	}
	lines = append(lines, strings.Split(drainTable(0, views, 0, 0), "\n")...)
	lines = append(lines, strings.Split(drainSummary([]outcome{{title: "PDB, 30 s grace", calls: 14, dropped: 14, unanswered: 14, over: true}, {title: "PDB, 1 h grace"}}), "\n")...)
	lines = append(lines, "00:00  "+line(full()), "00:00  "+line(silent()))
	lines = append(lines, strings.Split(fold(kept, columns), "\n")...)
	for _, l := range lines {
		if n := len([]rune(l)); n > columns {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

func TestShowWaitsForCallguardAndNotForeverForOthers(t *testing.T) {
	over, waits := sideView{Guarded: true, Over: true}, sideView{}
	cases := map[string]struct {
		reason string
		at     time.Duration
		sides  []sideView
		want   bool
	}{
		"AllOver":    {"", talk, []sideView{over, {Over: true}}, true},
		"StillTalks": {"A call is up.", talk, []sideView{over, {Over: true, Calls: 1}}, false},
		"Waits":      {"It may end soon.", talk + lateAfter, []sideView{over, waits}, false},
		"Late":       {"The summary says that it has not ended.", talk + lateAfter + time.Second, []sideView{over, waits}, true},
		"Callguard":  {"Its drain must end.", talk + lateAfter + time.Second, []sideView{{Guarded: true}, waits}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := drainsOver(tc.at, tc.sides); got != tc.want {
				t.Errorf("%s drainsOver() = %t, want %t", tc.reason, got, tc.want)
			}
		})
	}
}

func TestDrainSaysWhatItWaitsFor(t *testing.T) {
	pods := func(guarded bool, states ...string) sideView {
		v := sideView{Node: "node-1", Guarded: guarded}
		for _, s := range states {
			v.Pods = append(v.Pods, podRow{Node: "node-1", State: s})
		}
		return v
	}
	cases := map[string]struct {
		reason string
		view   sideView
		want   string
	}{
		"Calls":    {"Calls come first.", threeSides()[0], "waits for 3 calls in 2 pods"},
		"Idle":     {"Callguard looks once more before it lets a pod go.", pods(true, "draining", "draining"), "waits: idle; callguard makes sure no call is coming"},
		"Released": {"kubectl drain tries again every 5 s.", pods(true, "draining", "released"), "waits: 1 of 2 idle pods may go; kubectl tries every 5 s"},
		"Ending":   {"Without callguard a pod without calls ends.", pods(false, "finishing"), "waits: 1 pods without calls are ending"},
		"Gone":     {"kubectl has not looked yet.", pods(true), "waits: its pods are gone; kubectl looks every 5 s"},
		"Over":     {"", sideView{Over: true, Took: time.Minute}, "ended after 01:00"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.view.drain(); got != tc.want {
				t.Errorf("%s drain() = %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestJudgeDrain(t *testing.T) {
	guarded, lost, patient := outcome{title: "callguard", guarded: true}, outcome{title: "plain", dropped: 4}, outcome{title: "patient"}
	cases := map[string]struct {
		reason   string
		outcomes []outcome
		want     string // in the error; none means no error
	}{
		"Good":        {"", []outcome{guarded, lost, patient}, ""},
		"PatientLost": {"How others fare is a result, and no fault.", []outcome{guarded, lost, {title: "patient", dropped: 1, unanswered: 3}}, ""},
		"Lost":        {"No call may be lost.", []outcome{{title: "callguard", guarded: true, dropped: 1}, lost}, "1 calls were lost"},
		"Unanswered":  {"Every caller is answered.", []outcome{{title: "callguard", guarded: true, unanswered: 1}, lost}, "1 not answered"},
		"Nothing":     {"Without a loss there is nothing to compare with.", []outcome{guarded, patient}, "nothing to compare with"},
		"DrainFailed": {"kubectl drain must end well.", []outcome{guarded, {title: "plain", dropped: 1, node: "node-3", fault: errors.New("boom")}}, "the drain of node-3 failed: boom"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := judgeDrain(tc.outcomes)
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s judgeDrain() = %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}
