// SPDX-License-Identifier: Apache-2.0

package realtime

import "time"

const (
	// spread is how far a pause may lie from what was meant, to either side:
	// pods that started together must not probe together.
	spread = 0.2
	// firstRetry is the part of the interval after which a failure is looked at again.
	firstRetry = 4
	// longest is the longest pause of the backoff, where the interval is not longer.
	longest = 5 * time.Minute
)

// pause is how long to wait after a state before the next probe. Chance is in [0, 1).
//
// What may pass is asked less and less often. What is fatal is asked again at the
// interval: a new key in the file must not wait for minutes.
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
