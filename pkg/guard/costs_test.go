// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"testing"

	"github.com/callguard/callguard/pkg/call"
)

func TestBand(t *testing.T) {
	cases := []struct {
		reason string
		calls  call.Reading
		want   int
	}{
		{"An idle pod goes first.", call.Known(0, noon()), 0},
		{"One call is worth keeping.", call.Known(1, noon()), 100},
		{"A second call is no write.", call.Known(2, noon()), 100},
		{"Three are more than two.", call.Known(3, noon()), 200},
		{"The band is wide.", call.Known(9, noon()), 200},
		{"The last band has no end.", call.Known(10, noon()), 300},
		{"The last band has no end.", call.Known(1000, noon()), 300},
		{"What nobody knows may be much.", call.Unknown("no route"), 300},
		{"Nobody was asked yet.", call.Reading{}, 300},
	}
	for _, tc := range cases {
		if got := band(tc.calls); got != tc.want {
			t.Errorf("band(%+v) = %d, want %d: %s", tc.calls, got, tc.want, tc.reason)
		}
	}
}
