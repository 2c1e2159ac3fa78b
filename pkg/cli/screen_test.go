// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestScreen: single events scroll, changing state is drawn in place, also on a terminal that became narrower, and in the
// end nothing of it is left.
func TestScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		width := 80
		s := &screen{out: &plain{to: &out, size: func() (int, int) { return width, 24 }}, now: time.Now}
		ctx, cancel := context.WithCancel(t.Context())
		wrote := func(want string) {
			t.Helper()
			synctest.Wait()
			s.mu.Lock() // what is drawn is drawn under it
			defer s.mu.Unlock()
			if diff := cmp.Diff(want, out.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			out.Reset()
		}
		s.tell(Event{Event: begins, Node: "n", Text: "2 pods to leave it", Left: &Left{Pods: 2, Of: 2}})
		s.tell(Event{Event: cordons, Node: "n", Text: "node/n cordoned"})
		wrote("node/n cordoned\n")
		go s.run(ctx)
		first := "[....................]  node/n: 2 pods to leave it\n"
		wrote(first)
		s.tell(Event{Event: stands, Node: "n", Text: "v/a: draining, 1 call", Pod: &PodStands{Namespace: "v", Name: "a"}})
		second := first + "  v/a: draining, 1 call\n"
		wrote("\r\x1b[1A\x1b[J" + second)
		time.Sleep(drawPace)
		wrote("") // nothing has changed
		at := time.Now()
		s.tell(Event{Event: leaves, Time: at, Node: "n", Text: "v/b: gone", Pod: &PodStands{Namespace: "v", Name: "b"}})
		wrote("\r\x1b[2A\x1b[J" + clock(at) + "  v/b: gone\n" + second)
		s.tell(Event{Event: remains, Node: "n", Text: "1 of 2 pods left, with 1 call", Left: &Left{Pods: 1, Of: 2}})
		third := "[##########..........]  node/n: 1 of 2 pods left, with 1 call\n  v/a: draining, 1 call\n"
		wrote("\r\x1b[2A\x1b[J" + third)
		s.mu.Lock()
		width = 34
		s.mu.Unlock()
		time.Sleep(drawPace)
		wrote("\r\x1b[3A\x1b[J[##########..........]  node/n: 1\n  of 2 pods left, with 1 call\n  v/a: draining, 1 call\n") // the first line had wrapped
		s.tell(Event{Event: drained, Node: "n", Text: "node/n drained"})
		cancel()
		wrote("\r\x1b[3A\x1b[Jnode/n drained\n")
	})
}

// TestFrameFits: on a small terminal the nodes come first, and pods without room are counted.
func TestFrameFits(t *testing.T) {
	s := &screen{now: noon}
	for _, name := range []string{"node-1", "node-22"} {
		s.take(Event{Event: begins, Node: name, Text: "9 pods to leave", Left: &Left{Pods: 9, Of: 9}})
		for pod := range strings.SplitSeq("abcdefghi", "") {
			s.take(Event{Event: stands, Node: name, Text: "v/" + pod + ": serving", Pod: &PodStands{Namespace: "v", Name: pod}})
		}
	}
	median, p90 := int64(600), int64(2400)
	s.take(Event{Event: foretold, Time: noon().Add(-5 * time.Minute), CallsOver: &Ends{MedianSeconds: &median, P90Seconds: &p90}})
	want := "[....................]  node/node-1: 9 pods to leave\n[....................]  node/node-22: 9 pods to leave\n" +
		"The calls held now are over by " + clock(noon().Add(5*time.Minute)) + " (in 5m) in half of such cases, by " + clock(noon().Add(35 * time.Minute))[:5] + "…\n  v/a: serving\n  v/b: serving\nand 16 lines more\n"
	if diff := cmp.Diff(want, s.frame(80, 7)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
