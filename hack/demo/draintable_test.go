// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDrainTable(t *testing.T) {
	sides := []sideView{
		{Title: "with the guard", Node: "node-1", Calls: 4, Pods: []podRow{
			{Name: "agent-a", Node: "node-1", Phase: "Running", State: "draining", Calls: reading{N: 2}},
			{Name: "agent-b", Node: "node-2", Phase: "Running", State: "serving", Calls: reading{N: 2}},
		}},
		{Title: "with a plain PDB", Node: "node-3", Calls: 2, Dropped: 2, Over: true, Took: 31 * time.Second, Pods: []podRow{
			{Name: "agent-c", Node: "node-4", Phase: "Running", State: "serving", Calls: reading{N: 2}},
		}},
	}
	want := `callguard demo, second act  00:35  (Ctrl-C ends it)

with the guard: calls up 4, dropped 0; kubectl drain node-1 waits
POD      NODE    PHASE    STATE     CALLS
agent-a  node-1  Running  draining   2 ●●
agent-b  node-2  Running  serving    2 ●●

with a plain PDB: calls up 2, dropped 2; kubectl drain node-3 ended after 00:31
POD      NODE    PHASE    STATE    CALLS
agent-c  node-4  Running  serving   2 ●●
`
	if diff := cmp.Diff(want, drainTable(35*time.Second, sides, 0, 0)); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	line := "with the guard: calls 4, dropped 0, pods 2, drain waits   with a plain PDB: calls 2, dropped 2, pods 1, drain ended after 00:31"
	if diff := cmp.Diff(line, drainLine(sides)); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
}
