// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ranked are candidates in the order in which they go, with the reason of each.
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
		"None":     {reason: "Nobody goes where nobody has to.", n: 0, want: nil},
		"Negative": {reason: "Too few pods are no excess.", n: -3, want: nil},
		"One":      {reason: "The first of the order.", n: 1, want: want[:1]},
		"Some":     {reason: "Exactly as many as asked.", n: 9, want: want[:9]},
		"All":      {reason: "In the whole order.", n: len(want), want: want},
		"TooMany":  {reason: "More than there are cannot go.", n: len(want) + 5, want: want},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Leavers(candidates, tc.n)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
	if got := Leavers(nil, 3); got != nil {
		t.Errorf("Leavers(nil, 3) = %v", got)
	}
}

func TestLeaversAreAlwaysTheSame(t *testing.T) {
	candidates, want := ranked()
	random := rand.New(rand.NewSource(1))
	for range 500 {
		random.Shuffle(len(candidates), func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
		before := slices.Clone(candidates)
		n := random.Intn(len(candidates) + 1)
		if diff := cmp.Diff(want[:n], append([]Leaver{}, Leavers(candidates, n)...)); diff != "" {
			t.Fatalf("the order of the candidates changes who goes\n-want, +got:\n%s", diff)
		}
		if diff := cmp.Diff(before, candidates); diff != "" {
			t.Fatalf("the candidates were changed\n-want, +got:\n%s", diff)
		}
	}
}
