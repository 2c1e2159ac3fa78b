// SPDX-License-Identifier: Apache-2.0

package fair

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestTurns: a namespace has three workloads that always have work, and one that has some once. The latter waits for those
// before it, and for no others.
func TestTurns(t *testing.T) {
	turns := NewTurns[string](2) // a single namespace gets one
	if !turns.Take("voice", "hot-1", 0) {
		t.Fatal("the first has no turn")
	}
	if turns.Waits("voice") {
		t.Error("somebody waits, and none was turned away")
	}
	for _, what := range []string{"hot-2", "once", "hot-3"} {
		if turns.Take("voice", what, 0) {
			t.Fatalf("%s has a turn at the same time as the first", what)
		}
	}
	if !turns.Waits("voice") || turns.Waits("other") {
		t.Error("three of one namespace wait, and of the other none")
	}
	had := []string{"hot-1"}
	for range 5 {
		last := had[len(had)-1]
		if strings.HasPrefix(last, "hot") && turns.Take("voice", last, 0) { // it has changed meanwhile
			t.Fatalf("%s passed those in line", last)
		}
		next, taken := turns.Give("voice")
		if !taken {
			t.Fatalf("after %v there is no next turn", had)
		}
		had = append(had, next)
	}
	if want := []string{"hot-1", "hot-2", "once", "hot-3", "hot-1", "hot-2"}; !slices.Equal(had, want) {
		t.Errorf("turns were had by %v; want %v", had, want)
	}
}

// TestTurnsOfOthers: a long queue in one namespace delays no other, and no worker idles while there is work.
func TestTurnsOfOthers(t *testing.T) {
	turns := NewTurns[string](4)
	busy := 0
	for i := range 10 {
		if turns.Take("crowd", fmt.Sprint(i), 0) {
			busy++
		}
	}
	if busy != 2 {
		t.Fatalf("a namespace alone has %d of 4 workers; want half", busy)
	}
	if !turns.Take("other", "a", 0) {
		t.Error("the other namespace has to wait")
	}
	if turns.Take("other", "b", 0) {
		t.Error("the other namespace has all remaining turns")
	}
	if next, taken := turns.Give("other"); !taken || next != "b" {
		t.Errorf("then %q has its turn; want b: the crowd has its half", next)
	}
	if next, taken := turns.Give("other"); taken {
		t.Errorf("then %q has a turn; the crowd has its half", next)
	}
	for range 8 {
		if _, taken := turns.Give("crowd"); !taken {
			t.Error("a worker is idle while the crowd waits")
		}
	}
	for range 2 {
		if next, taken := turns.Give("crowd"); taken {
			t.Errorf("%q has a turn, although none was left", next)
		}
	}
}

// TestRanks: a workload of higher rank overtakes a queue, and none of the overtaken waits for more than five times its
// length.
func TestRanks(t *testing.T) {
	turns := NewTurns[string](2)
	turns.Take("voice", "at work", 0)
	for i := range 2 {
		turns.Take("voice", fmt.Sprint("low-", i+1), 0)
	}
	turns.Take("voice", "middle", 1)
	for i := range 6 {
		turns.Take("voice", fmt.Sprint("high-", i+1), Highest)
	}
	var had []string
	for {
		next, taken := turns.Give("voice")
		if !taken {
			break
		}
		had = append(had, next)
	}
	if want := []string{"high-1", "high-2", "high-3", "high-4", "low-1", "high-5", "high-6", "middle", "low-2"}; !slices.Equal(had, want) {
		t.Errorf("turns were had by %v; want %v", had, want)
	}
}
