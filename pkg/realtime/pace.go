// SPDX-License-Identifier: Apache-2.0

package realtime

import "time"

const (
	// spread is by how much a pause may be shorter or longer, so that pods that started
	// together do not probe together.
	spread = 0.2
	// firstRetry is the part of the interval (one in so many) after which a failed probe is
	// repeated.
	firstRetry = 4
	// longest is the longest pause of the backoff, unless the interval is longer.
	longest = 5 * time.Minute
)

// pause returns how long to wait before the next probe. Chance is in [0, 1).
//
// After failures that may pass, the pause grows. After a fatal one it stays at the
// interval, so that a new key in the file is soon noticed.
func pause(s State, interval time.Duration, chance float64) time.Duration {
	most := max(longest, interval)
	mean := interval
	if s.Failures > 0 {
		ceiling := most
		if s.Latest.Class() == Fatal {
			ceiling = interval
		}
		mean = interval / firstRetry
		for n := 1; n < s.Failures && mean < ceiling; n++ {
			mean *= 2
		}
		mean = min(mean, ceiling)
	}
	wait := time.Duration(float64(mean) * (1 - spread + 2*spread*chance))
	return max(wait, min(s.Latest.RetryAfter, most))
}
