// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSlopes(t *testing.T) {
	t.Parallel()
	var usage []Usage
	for n := range 31 { // five minutes
		at := seconds(float64(n * 10))
		grows := Usage{At: at, Process: "guard-1", Memory: 50<<20 + float64(n)*1000, Goroutines: 80}
		if n < 3 { // its start
			grows.Memory = 10 << 20
		}
		usage = append(usage, grows)
		if n < 8 { // too short
			usage = append(usage, Usage{At: at, Process: "guard-2", Memory: float64(n), Goroutines: float64(n)})
		}
	}
	got := Slopes(usage)
	want := []Slope{{
		Process: "guard-1", From: seconds(30), To: seconds(300), Samples: 28,
		Memory: 50<<20 + 30_000, MemoryMost: 50<<20 + 30_000, Goroutines: 80, GoroutinesMost: 80,
		MemoryPerHour: 360_000,
	}}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-6, 1e-6)); diff != "" {
		t.Errorf("the slopes are wrong (-want +got):\n%s", diff)
	}
	if got := Slopes(nil); len(got) != 0 {
		t.Errorf("without processes there are slopes: %v", got)
	}
}
