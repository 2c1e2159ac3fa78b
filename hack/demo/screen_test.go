// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPipeGetsLinesWhenSomethingChanges(t *testing.T) {
	var out strings.Builder
	s := &screen{out: &out}
	say := func(seconds int, lines ...string) {
		s.draw(time.Duration(seconds)*time.Second, lines, func(int, int) string { return "" })
	}
	say(0, "a 1", "b 1")
	say(1, "a 1", "b 2")
	say(2, "a 1", "b 2")
	say(10, "a 1", "b 2") // nothing has changed, and it goes on
	want := "00:00  a 1\n00:00  b 1\n00:01  b 2\n00:10  a 1\n00:10  b 2\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
}

func TestTerminalIsDrawnInPlaceAlsoWhenItHasBecomeNarrower(t *testing.T) {
	var out strings.Builder
	width := 20
	s := &screen{out: &out, size: func() (int, int) { return width, 10 }}
	table := func(width, height int) string { return fit("twenty characters ok\nshort\n", width, height) }
	s.draw(0, nil, table)
	width = 10
	s.draw(time.Second, nil, table)
	s.draw(2*time.Second, nil, table)
	// The first line takes two rows on the narrower terminal, and is cut from then on.
	want := "twenty characters ok\nshort\n" + "\x1b[3A\x1b[J" + "twenty ch…\nshort\n" + "\x1b[2A\x1b[J" + "twenty ch…\nshort\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want, +got:\n%q", diff)
	}
}
