// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestProcessPools runs both SDKs' pools with slow processes.
func TestProcessPools(t *testing.T) {
	s := func(n ...float64) []time.Duration {
		var all []time.Duration
		for _, seconds := range n {
			all = append(all, time.Duration(seconds*float64(time.Second)))
		}
		return all
	}
	tests := map[string]struct {
		reason   string
		dialect  Dialect
		settings poolSettings
		before   time.Duration // from the start until the jobs come, all at once
		jobs     int
		warm     time.Duration   // when the worker may register
		launched []time.Duration // after the jobs came
		fail     int             // jobs that were given up
	}{
		"PythonWarm": {
			reason:  "Four idle processes take the first four jobs; the others wait for one that is made for them.",
			dialect: Python, settings: poolSettings{takes: span{8 * time.Second, 8 * time.Second}, timeout: 10 * time.Second, idle: 4},
			before: 20 * time.Second, jobs: 6, warm: 8 * time.Second, launched: s(0, 0, 0, 0, 8, 8),
		},
		"PythonInits": {
			reason:  "At most four initialise at a time, however many jobs wait.",
			dialect: Python, settings: poolSettings{takes: span{5 * time.Second, 5 * time.Second}, timeout: 10 * time.Second, idle: 1},
			before: 20 * time.Second, jobs: 9, warm: 5 * time.Second, launched: s(0, 5, 5, 5, 5, 10, 10, 10, 10),
		},
		"PythonSlow": {
			reason:  "Processes that need longer than the time-out never come: the worker registers 2 s later, and a job is given up after three attempts.",
			dialect: Python, settings: poolSettings{takes: span{25 * time.Second, 25 * time.Second}, timeout: 10 * time.Second, idle: 1},
			before: 12 * time.Second, jobs: 1, warm: 12 * time.Second, fail: 1,
		},
		"PythonCold": {
			reason:  "Case P1: without idle processes the job waits for its own.",
			dialect: Python, settings: poolSettings{takes: span{25 * time.Second, 25 * time.Second}, timeout: 90 * time.Second},
			before: time.Second, jobs: 1, launched: s(25),
		},
		"PythonFragile": {
			reason:  "A launch is tried three times, each with another process.",
			dialect: Python, settings: poolSettings{takes: span{time.Second, time.Second}, timeout: 10 * time.Second, idle: 1, failure: 1},
			before: 5 * time.Second, jobs: 1, warm: time.Second, fail: 1,
		},
		"NodeWarm": {
			reason:  "Processes initialise one at a time, and the worker registers at once.",
			dialect: Node, settings: poolSettings{takes: span{2 * time.Second, 2 * time.Second}, timeout: 10 * time.Second, idle: 2},
			before: 10 * time.Second, jobs: 4, launched: s(0, 0, 2, 4),
		},
		"NodeSlow": {
			reason:  "A job waits for a process without end.",
			dialect: Node, settings: poolSettings{takes: span{25 * time.Second, 25 * time.Second}, timeout: 10 * time.Second, idle: 1},
			before: time.Second, jobs: 1,
		},
		"NodeFragile": {
			reason:  "A launch that fails loses its job.",
			dialect: Node, settings: poolSettings{takes: span{time.Second, time.Second}, timeout: 10 * time.Second, idle: 1, failure: 1},
			before: 5 * time.Second, jobs: 1, fail: 1,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				tc.settings.dice = newDice(1, "pod")
				p := newPool(tc.dialect, tc.settings, func() int { return tc.settings.idle })
				var work sync.WaitGroup
				begin := time.Now()
				work.Go(func() { p.run(ctx) })
				<-p.warm()
				if warm := time.Since(begin); warm != tc.warm {
					t.Errorf("%s The worker may register after %s; want %s", tc.reason, warm, tc.warm)
				}
				time.Sleep(tc.before - tc.warm)
				came := time.Now()
				var mu sync.Mutex
				var launched []time.Duration
				fail := 0
				for range tc.jobs {
					work.Go(func() {
						err := p.acquire(ctx)
						mu.Lock()
						defer mu.Unlock()
						switch {
						case err == nil:
							launched = append(launched, time.Since(came).Round(poolPace))
						case errors.Is(err, errNoProcess):
							fail++
						}
					})
				}
				time.Sleep(5 * time.Minute)
				mu.Lock()
				defer mu.Unlock()
				if diff := cmp.Diff(tc.launched, launched); diff != "" || fail != tc.fail {
					t.Errorf("%s Jobs were launched at %v, %d were given up; want %v and %d", tc.reason, launched, fail, tc.launched, tc.fail)
				}
				cancel()
				mu.Unlock()
				work.Wait()
				mu.Lock()
			})
		})
	}
}

func TestSpans(t *testing.T) {
	for value, want := range map[string]span{"8": {8 * time.Second, 8 * time.Second}, "0-40": {0, 40 * time.Second}, "0.5-1": {500 * time.Millisecond, time.Second}} {
		if got, err := parseSpan("a", value); err != nil || got != want {
			t.Errorf("parseSpan(%q) = %v, %v; want %v", value, got, err, want)
		}
	}
	for _, value := range []string{"", "x", "4-2", "-1", "1-", "8s"} {
		if _, err := parseSpan("a", value); err == nil {
			t.Errorf("%q is no mistake", value)
		}
	}
	first, second, other := newDice(1, "a"), newDice(1, "a"), newDice(1, "b")
	s := span{0, time.Hour}
	if a, b := first.draw(s), second.draw(s); a != b {
		t.Errorf("the same pod drew %s and %s", a, b)
	} else if a == other.draw(s) {
		t.Errorf("two pods drew %s", a)
	}
}

func TestAnnotationsReportEveryMistake(t *testing.T) {
	_, err := behaviourOf(map[string]string{
		DialectAnnotation: "go", MaxJobsAnnotation: "0", ProcessSecondsAnnotation: "slow", IdleProcessesAnnotation: "-1", LaunchFailureAnnotation: "2",
	}, Config{})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 5 {
		t.Errorf("behaviourOf = %v; want five mistakes", err)
	}
}
