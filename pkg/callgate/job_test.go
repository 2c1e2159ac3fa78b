// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"testing"
	"time"
)

// TestHowLongAJobThatLeftCounts: the agent has left its room, and may still be working, or be about to
// come back.
func TestHowLongAJobThatLeftCounts(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	l := limitsWith(DefaultLaunchLimit)
	for name, tc := range map[string]struct {
		reason          string
		told            bool // LiveKit reported that the agent left
		counted, silent bool
		want            time.Duration
	}{
		"Told":    {reason: "LiveKit said so, and no number says that it works on.", told: true, want: 10 * time.Second},
		"Untold":  {reason: "Its LiveKit may have been restarted, and the agent may be on its way back.", want: 30 * time.Second},
		"Counted": {reason: "The agent says that it works on.", told: true, counted: true, want: 6 * time.Minute},
		"Silent":  {reason: "It said so, and does not answer now.", told: true, silent: true, want: 6 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			j := &job{room: "r", phase: left, since: began, told: tc.told, absent: began}
			over := func(after time.Duration) bool { return j.isOver(l, tc.counted, tc.silent, true, began.Add(after)) }
			if over(tc.want-1) || !over(tc.want) {
				t.Errorf("%s It should be over after %s, and not before", tc.reason, tc.want)
			}
		})
	}
}
