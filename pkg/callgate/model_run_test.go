// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

var modelRuns = flag.Int("model", 0, "how many worlds of the model to play; 0 is a part of them") //nolint:gochecknoglobals // a flag of the test

var modelSeed = flag.Uint64("seed", 0, "the one world to play, with its story") //nolint:gochecknoglobals // a flag of the test

// play plays the given number of worlds, and returns the first that fails.
func play(runs int, m mutant) (seed uint64, failure string) {
	var next atomic.Uint64
	var failed atomic.Bool
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			counts := modelMetrics()
			for !failed.Load() {
				n := next.Add(1)
				if n > uint64(runs) {
					return
				}
				if why := newWorld(n, m, counts).run(); why != "" {
					failed.Store(true)
					mu.Lock()
					if failure == "" || n < seed {
						seed, failure = n, why
					}
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	return seed, failure
}

// TestNoJobIsTakenForOverWhileItMayCome simulates agents of both SDKs, callers, LiveKit
// and the gate's own restarts at random, with the real book and its looks. The gate never
// reports drained while a job runs or may start, its count is below the truth only until
// the next number, and every job ends.
func TestNoJobIsTakenForOverWhileItMayCome(t *testing.T) {
	if *modelSeed > 0 {
		w := newWorld(*modelSeed, mutant{}, modelMetrics())
		if why := w.run(); why != "" {
			t.Fatal(why)
		}
		return
	}
	runs := *modelRuns
	if runs == 0 {
		runs = 2000
	}
	if seed, why := play(runs, mutant{}); why != "" {
		t.Fatalf("world %d of %d: %s", seed, runs, why)
	}
	t.Logf("%d worlds, none went wrong", runs)
}
