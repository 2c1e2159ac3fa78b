// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"strings"
	"testing"
	"time"
)

// TestGraceOfABaseline is as much shorter than in life as the run is.
func TestGraceOfABaseline(t *testing.T) {
	t.Parallel()
	for b, want := range map[Baseline]time.Duration{
		Article: 2 * time.Second, Grace600: 30 * time.Second, GraceHour: 3 * time.Minute, NoneUnavailable: 2 * time.Second, AgonesLike: 2 * time.Second,
	} {
		if got := b.Grace(3 * time.Minute); got != want {
			t.Errorf("in a run of 3m the grace of %s is %s; want %s", b, got, want)
		}
	}
	if got := Article.Grace(time.Minute); got != time.Second {
		t.Errorf("in a run of 1m the grace of %s is %s; want a second, for none at all is a kill", Article, got)
	}
}

// TestUnknownBaseline is refused with those that there are.
func TestUnknownBaseline(t *testing.T) {
	t.Parallel()
	if _, err := ParseBaseline("agones"); err == nil || !strings.Contains(err.Error(), `there is no baseline "agones"; use one of`) || !strings.Contains(err.Error(), "agones-like") {
		t.Errorf("an unknown baseline is refused with %v; want a sentence that names those that there are", err)
	}
	if b, err := ParseBaseline("maxUnavailable0"); err != nil || b != NoneUnavailable {
		t.Errorf("baseline maxUnavailable0 is %q, %v", b, err)
	}
}

// TestToll counts what is lost, what nodes and pods there are within the schedule, and drains.
func TestToll(t *testing.T) {
	t.Parallel()
	r := aRun()
	for i := range r.Pods {
		r.Pods[i].Nodes = 2 + i
	}
	got := r.Toll()
	want := Toll{
		Calls: 3, Lost: 1, Unanswered: 1, Drains: 2, Undone: 1, Half: seconds(78), Longest: seconds(78),
		Nodes: seconds(2*320 + 3*280), Pods: seconds(12*320 + 15*280),
	}
	if got != want {
		t.Errorf("the toll is\n%+v; want\n%+v", got, want)
	}
	if line, want := got.Line(""), "| callguard | 3 | 1 | 1 | 1480 | 8040 | 1 of 2, in 1m18s (half), 1m18s (all) |"; line != want {
		t.Errorf("its line is\n%s; want\n%s", line, want)
	}
	if line := (Toll{Drains: 1, Undone: 1}).Line(NoneUnavailable); line != "| maxUnavailable0 | 0 | 0 | 0 | 0 | 0 | 0 of 1 |" {
		t.Errorf("the line of a run whose drain did not end is %s", line)
	}
}
