// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFoldKeepsLinesWithinTheTerminal(t *testing.T) {
	cases := map[string]struct{ reason, text, want string }{
		"Short":   {"What fits stays as it is.", "a short  line\n", "a short  line\n"},
		"Long":    {"It breaks between words.", "one two three four five\n", "one two three\n  four five\n"},
		"Path":    {"A path is to be copied, so it stays whole.", "see /a/very/long/path/to/a/log now\n", "see\n  /a/very/long/path/to/a/log\n  now\n"},
		"NoBreak": {"The end of the text is no end of a line.", "one two", "one two"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, fold(tc.text, 14)); diff != "" {
				t.Errorf("%s -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestPulseIsNeverSilentForLong(t *testing.T) {
	var out strings.Builder
	p := newPulse(&out)
	began := time.Now()
	p.beat(began.Add(time.Minute)) // nothing was begun, so nothing goes on
	if _, err := p.Write([]byte("starting the control plane\n")); err != nil {
		t.Fatal(err)
	}
	for s := range 20 {
		p.beat(p.at.Add(time.Duration(s) * time.Second))
	}
	want := "starting the control plane\nstill starting the control plane, 00:08\nstill starting the control plane, 00:16\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
}
