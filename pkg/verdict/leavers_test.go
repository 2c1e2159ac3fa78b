// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ranked are candidates in the order in which they leave, with the reason for each.
func ranked() ([]Candidate, []Leaver) {
	began := func(minute int) time.Time { return time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC) }
	list := []struct {
		why string
		c   Candidate
	}{
		{"its agent does not run", Candidate{Name: "ended-1"}},
		{"its agent does not run", Candidate{Name: "ended-2", Wanted: true}},
		{"it has to leave anyway", Candidate{Name: "leaving-idle", Running: true, Wanted: true, Ready: true, Known: true}},
		{"it has to leave anyway", Candidate{Name: "leaving-unknown", Running: true, Wanted: true, Ready: true}},
		{"it has to leave anyway", Candidate{Name: "leaving-busy", Running: true, Wanted: true, Ready: true, Known: true, Calls: 7}},
		{"it is idle and not ready", Candidate{Name: "unready-1", Running: true, Known: true}},
		{"it is idle and not ready", Candidate{Name: "unready-2", Running: true, Known: true}},
		{"it is idle", Candidate{Name: "idle-1", Running: true, Ready: true, Known: true}},
		{"it is idle", Candidate{Name: "idle-2", Running: true, Ready: true, Known: true}},
		{"it holds the fewest calls", Candidate{Name: "one-old", Running: true, Ready: true, Known: true, Calls: 1, Newest: began(1)}},
		{"it holds the fewest calls", Candidate{Name: "one-new", Running: true, Known: true, Calls: 1, Newest: began(2)}},
		{"it holds the fewest calls", Candidate{Name: "one-undated", Running: true, Ready: true, Known: true, Calls: 1}},
		{"it holds the fewest calls", Candidate{Name: "one-undated-too", Running: true, Ready: true, Known: true, Calls: 1}},
		{"it holds the fewest calls", Candidate{Name: "two", Running: true, Ready: true, Known: true, Calls: 2, Newest: began(0)}},
		{"it holds the fewest calls", Candidate{Name: "thirty", Running: true, Ready: true, Known: true, Calls: 30, Newest: began(0)}},
		{"the others have to stay", Candidate{Name: "unknown-1", Running: true, Ready: true}},
		{"the others have to stay", Candidate{Name: "unknown-2", Running: true}},
	}
	var candidates []Candidate
	var leavers []Leaver
	for _, entry := range list {
		candidates = append(candidates, entry.c)
		leavers = append(leavers, Leaver{Name: entry.c.Name, Why: entry.why})
	}
	return candidates, leavers
}

func TestLeavers(t *testing.T) {
	candidates, want := ranked()
	cases := map[string]struct {
		reason string
		n      int
		want   []Leaver
	}{
		"None":     {reason: "No pod leaves if none has to.", n: 0, want: nil},
		"Negative": {reason: "Too few pods are no excess.", n: -3, want: nil},
		"One":      {reason: "The first of the order.", n: 1, want: want[:1]},
		"Some":     {reason: "Exactly as many as asked.", n: 9, want: want[:9]},
		"All":      {reason: "In the whole order.", n: len(want), want: want},
		"TooMany":  {reason: "More than there are cannot go.", n: len(want) + 5, want: want},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, order := range Orders() { // all pods are on one node
				if diff := cmp.Diff(tc.want, Leavers(order, candidates, tc.n, nil)); diff != "" {
					t.Errorf("%s, %s\n-want, +got:\n%s", tc.reason, order, diff)
				}
			}
		})
	}
	if got := Leavers(Packed, nil, 3, nil); got != nil {
		t.Errorf("three of no candidates are %v", got)
	}
}

// TestLeaversOfNodes has pods of several nodes. The number beside a node's name counts the other pods that stay there.
func TestLeaversOfNodes(t *testing.T) {
	pod := func(name, node string, calls int) Candidate {
		return Candidate{Name: name, Node: node, Running: true, Ready: true, Known: true, Calls: calls}
	}
	unready := func(c Candidate) Candidate { c.Ready = false; return c }
	wanted := func(c Candidate) Candidate { c.Wanted = true; return c }
	dark := func(c Candidate) Candidate { c.Known = false; return c }
	cases := map[string]struct {
		reason     string
		candidates []Candidate
		staying    map[string]int
		n          int
		packed     []string
		fewest     []string
	}{
		"OfTheEmptiest": {
			reason:     "The node with one pod gets empty, though that is busy.",
			candidates: []Candidate{pod("a1", "a", 0), pod("a2", "a", 1), pod("b1", "b", 5)}, n: 1,
			packed: []string{"b1"}, fewest: []string{"a1"},
		},
		"OneNodeAfterTheOther": {
			reason:     "Whose node has begun to get empty is next.",
			candidates: []Candidate{pod("a1", "a", 0), pod("a2", "a", 3), pod("b1", "b", 1), pod("b2", "b", 1)}, n: 2,
			packed: []string{"a1", "a2"}, fewest: []string{"a1", "b1"},
		},
		"OthersStay": {
			reason:     "A node that others hold does not get empty.",
			candidates: []Candidate{pod("a1", "a", 0), pod("b1", "b", 2), pod("b2", "b", 2)}, staying: map[string]int{"a": 3}, n: 1,
			packed: []string{"b1"}, fewest: []string{"a1"},
		},
		"OnOneNode": {
			reason:     "Where nodes are alike, idle before busy, then the fewest calls.",
			candidates: []Candidate{pod("a1", "a", 2), pod("a2", "a", 1), pod("b1", "b", 2), pod("b2", "b", 0)}, n: 2,
			packed: []string{"b2", "b1"}, fewest: []string{"b2", "a2"},
		},
		"Unready": {
			reason:     "A pod that takes no call leaves first, wherever it is, because the others take them.",
			candidates: []Candidate{pod("a1", "a", 0), unready(pod("b1", "b", 0)), pod("b2", "b", 0)}, n: 1,
			packed: []string{"b1"}, fewest: []string{"b1"},
		},
		"Wanted": {
			reason:     "So does one that has to go anyway.",
			candidates: []Candidate{pod("a1", "a", 0), wanted(pod("b1", "b", 4)), pod("b2", "b", 0)}, n: 1,
			packed: []string{"b1"}, fewest: []string{"b1"},
		},
		"Unknown": {
			reason:     "A pod with unknown calls leaves last, although its node would be empty.",
			candidates: []Candidate{dark(pod("a1", "a", 0)), pod("b1", "b", 4), pod("b2", "b", 4)}, n: 1,
			packed: []string{"b1"}, fewest: []string{"b1"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for order, want := range map[Order][]string{Packed: tc.packed, FewestCalls: tc.fewest} {
				var got []string
				for _, l := range Leavers(order, tc.candidates, tc.n, tc.staying) {
					got = append(got, l.Name)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: %s\n-want, +got:\n%s", order, tc.reason, diff)
				}
			}
		})
	}
	why := Leavers(Packed, cases["OfTheEmptiest"].candidates, 1, nil)[0].Why
	if why != "its node has the fewest guarded pods that stay" {
		t.Errorf("it goes, for %s", why)
	}
}

func TestLeaversAreAlwaysTheSame(t *testing.T) {
	candidates, want := ranked()
	random := rand.New(rand.NewSource(1))
	for range 500 {
		random.Shuffle(len(candidates), func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
		before := slices.Clone(candidates)
		n := random.Intn(len(candidates) + 1)
		if diff := cmp.Diff(want[:n], append([]Leaver{}, Leavers(Packed, candidates, n, nil)...)); diff != "" {
			t.Fatalf("the order of the candidates changes which pods leave\n-want, +got:\n%s", diff)
		}
		if diff := cmp.Diff(before, candidates); diff != "" {
			t.Fatalf("the candidates were changed\n-want, +got:\n%s", diff)
		}
	}
}
