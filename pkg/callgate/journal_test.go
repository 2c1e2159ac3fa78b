// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestJournalThatLacksAJob: a gate could not write down a job, for example because the
// disk is full. The next gate must not take the journal for complete.
func TestJournalThatLacksAJob(t *testing.T) {
	long := strings.Repeat("x", 300) // a file with this name cannot be created
	cases := map[string]struct {
		reason string
		before func(t *testing.T, dir string)
		does   func(*book)
		known  bool
		calls  int
	}{
		"First":   {reason: "No gate was there before.", does: func(*book) {}, known: true},
		"Written": {reason: "Written jobs are known.", does: func(b *book) { b.assign(1, "a", "r", "g", time.Now()) }, known: true, calls: 1},
		"Lacking": {reason: "Zero would release a pod that talks.", does: func(b *book) { b.assign(1, long, "r", "g", time.Now()) }},
		"LackingOneOfTwo": {reason: "One of two is not all.", calls: 1,
			does: func(b *book) { b.assign(1, "a", "r", "g", time.Now()); b.assign(1, long, "r", "g", time.Now()) }},
		"LackingOver": {reason: "When the job is over nothing is lacking any more.", known: true,
			does: func(b *book) { b.assign(1, long, "r", "g", time.Now()); b.end(1, long, time.Now()) }},
		"OtherOver": {reason: "Another job's end does not make up for it.",
			does: func(b *book) {
				b.assign(1, "a", "r", "g", time.Now())
				b.assign(1, long, "r", "g", time.Now())
				b.end(1, "a", time.Now())
			}},
		"WorkersLacking": {reason: "Fewer agents than there are would be asked.",
			before: func(t *testing.T, dir string) {
				t.Helper()
				if err := os.Mkdir(filepath.Join(dir, workersFile), 0o700); err != nil {
					t.Fatal(err)
				}
			},
			does: func(*book) {}},
		"LackedBefore": {reason: "This gate does not know either what the gate before it lacked.",
			before: func(t *testing.T, dir string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, wholeFile), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			does: func(b *book) { b.assign(1, long, "r", "g", time.Now()); b.end(1, long, time.Now()) }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.before != nil {
				tc.before(t, dir)
			}
			start := func() *Gate {
				g, err := New(Config{
					Upstream: "ws://127.0.0.1:1", Pod: "pod", Journal: dir,
					Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				return g
			}
			first := start().book
			first.register(1)
			tc.does(first)
			again := start().book
			again.drain("drain 2026-01-02T15:04:05Z")
			a := again.answer(time.Now())
			if a.Known != tc.known || a.Calls != tc.calls || a.Drained != (tc.known && tc.calls == 0) {
				t.Errorf("%s\nthe next gate says %+v; want known %t, %d calls", tc.reason, a, tc.known, tc.calls)
			}
		})
	}
}
