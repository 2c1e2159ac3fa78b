// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/witness/poll"
	"github.com/callguard/callguard/test/trial"
)

// told is the answer of the gate of pod a whose jobs began this many seconds before it. Its
// clock is an hour ahead of others.
func told(jobs map[string]float64) string {
	at := time.Date(2026, 1, 2, 16, 0, 0, 0, time.UTC)
	a := Answer{Pod: "a", At: at, Known: true, Used: true, Calls: len(jobs), Running: len(jobs)}
	for id, age := range jobs {
		j := Job{ID: id, State: "running", Since: at, Started: at.Add(-time.Duration(age * float64(time.Second)))}
		j.Tried = strings.HasPrefix(id, "try")
		if strings.HasPrefix(id, "offer") {
			j.Started = time.Time{}
		}
		a.Jobs = append(a.Jobs, j)
	}
	raw, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// many are jobs that began a minute ago.
func many(n int) map[string]float64 {
	jobs := map[string]float64{}
	for i := range n {
		jobs[fmt.Sprintf("AJ_%06d", i)] = 60
	}
	return jobs
}

// TestLearns: lengths of calls are learnt from a gate's answers, by this program's clock; and
// an end that was not observed does not count.
func TestLearns(t *testing.T) {
	type heard struct {
		at     float64
		answer string
	}
	const unknown = `{"pod":"a","at":"2026-01-02T16:00:00Z","known":false,"calls":0,"reason":"just started"}`
	for name, tc := range map[string]struct {
		reason    string
		witnesses []call.Witness
		heard     []heard
		ended     int
		ages      []time.Duration // at 100 s
		from, to  time.Duration   // of the one call that has ended
	}{
		"Begins": {reason: "A call is as old as its gate says, by whatever clock.", heard: []heard{{10, told(map[string]float64{"AJ_1": 7})}},
			ages: []time.Duration{97 * time.Second}},
		"Ends": {reason: "It ended between two answers.", ended: 1, from: 55 * time.Second, to: 70 * time.Second,
			heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {60, told(map[string]float64{"AJ_1": 55})}, {75, told(nil)}}},
		"Tried": {reason: "kubectl calls try is no caller.", heard: []heard{{10, told(map[string]float64{"try-1": 5})}, {20, told(nil)}}},
		"Offer": {reason: "A call that has not begun has not ended.", heard: []heard{{10, told(map[string]float64{"offer-1": 5})}, {20, told(nil)}}},
		"Unknown": {reason: "A gate that does not know its calls has not said that one is over.",
			heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {20, unknown}, {30, told(map[string]float64{"AJ_1": 25})}}, ages: []time.Duration{95 * time.Second}},
		"Silent": {reason: "It is unknown when a call ended during a long silence.", heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {90, told(nil)}}},
		"Before": {reason: "An older gate reports the same about its jobs.",
			heard: []heard{{10, `{"pod":"a","at":"2026-01-02T16:00:00Z","known":true,"calls":1,"jobs":[{"id":"AJ_1","state":"running","since":"2026-01-02T15:59:00Z","started":"2026-01-02T15:59:00Z"}]}`}},
			ages:  []time.Duration{150 * time.Second}},
		"Rooms": {reason: "LiveKit's list tells of the same calls.", witnesses: []call.Witness{call.Rooms, call.Gate},
			heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {20, told(nil)}}},
		"TooMany": {reason: "Of a list that is not read whole nothing has gone.", heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {20, told(many(maxLives + 1))}},
			ages: []time.Duration{95 * time.Second}},
		"CutOff": {reason: "Nor of one that is cut off.", heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {20, told(many(100))[:8000]}},
			ages: []time.Duration{95 * time.Second}},
		"Junk": {reason: "Nor do invalid jobs.", heard: []heard{{10, told(map[string]float64{"AJ_1": 5})}, {20, `{"pod":"a","at":"2026-01-02T16:00:00Z","known":true,"calls":1,"jobs":[{"id":1}]}`}},
			ages: []time.Duration{95 * time.Second}},
		"ClockBack": {reason: "No call is younger than none.", heard: []heard{{10, told(map[string]float64{"AJ_1": -300})}}, ages: []time.Duration{90 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			second := func(s float64) time.Time { return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second))) }
			table := &lengths.Table{}
			pod := &call.Pod{UID: "a", Witnesses: tc.witnesses}
			l := &lives{table: func(*call.Pod) *lengths.Table { return table }, gap: time.Minute, of: map[types.UID]*seen{}}
			for _, h := range tc.heard {
				answer, err := parseLives([]byte(h.answer), "a")
				if err != nil {
					t.Fatal(err)
				}
				l.heard(pod, answer, second(h.at))
			}
			ages := (&Reader{lives: l}).Ages(pod, second(100))
			slices.Sort(ages)
			if diff := cmp.Diff(tc.ages, ages); diff != "" {
				t.Errorf("%s the ages (-want, +got):\n%s", tc.reason, diff)
			}
			curve := table.Curve()
			if curve.Ended() != tc.ended {
				t.Fatalf("%s %d calls have ended; want %d", tc.reason, curve.Ended(), tc.ended)
			}
			if tc.ended == 0 {
				return
			}
			if got := lengths.Over([]lengths.Call{{Age: 50 * time.Second, Like: curve}}, 0.5); got < tc.from-50*time.Second || got > tc.to-50*time.Second {
				t.Errorf("%s a call that is 50 s old is estimated to end after %s", tc.reason, got)
			}
		})
	}
}

// TestManyLivesCount: a pod whose calls could not be learnt from is still counted.
func TestManyLivesCount(t *testing.T) {
	answer, err := parseLives([]byte(told(many(1000))), "a")
	if n, known := answer.reading(time.Now()).Calls(); err != nil || n != 1000 || !known || answer.Whole || answer.Lives != nil || answer.Jobs != nil {
		t.Errorf("%d calls, known: %t, of %d the age, %v", n, known, len(answer.Lives), err)
	}
}

// TestLearner asks a gate again and again, whose only call ends, and forgets a pod that is
// gone.
func TestLearner(t *testing.T) {
	var body atomic.Value
	body.Store(told(map[string]float64{"AJ_1": 60}))
	_, pod := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, body.Load()) })
	var there atomic.Bool
	there.Store(true)
	table := &lengths.Table{}
	r := NewLearner(poll.Config{
		Pod: func(types.UID) *call.Pod {
			if there.Load() {
				return pod
			}
			return nil
		},
		Interval: 20 * time.Millisecond, MaxStaleness: 10 * time.Second, Timeout: 5 * time.Second, Concurrency: 1, Registry: prometheus.NewRegistry(),
	}, func(*call.Pod) *lengths.Table { return table })
	r.lives.gap = time.Minute // the machine may be busy
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.Watch(pod.UID)
	trial.Eventually(t, "its call is known", func() bool {
		ages := r.Ages(pod, time.Now())
		return len(ages) == 1 && ages[0] >= time.Minute
	})
	body.Store(told(nil))
	trial.Eventually(t, "its call has ended", func() bool { return table.Curve().Ended() == 1 && len(r.Ages(pod, time.Now())) == 0 })
	body.Store(told(map[string]float64{"AJ_2": 60}))
	trial.Eventually(t, "the next is known", func() bool { return len(r.Ages(pod, time.Now())) == 1 })
	there.Store(false)
	trial.Eventually(t, "the pod is forgotten", func() bool { return len(r.Ages(pod, time.Now())) == 0 })
	if n := table.Curve().Ended(); n != 1 {
		t.Errorf("%d calls have ended; one went with its pod", n)
	}
}
