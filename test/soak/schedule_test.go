// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func draw(t *testing.T, seed uint64, duration time.Duration) Schedule {
	t.Helper()
	s, err := Draw(Options{Seed: seed, Duration: duration, Rate: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSameSeedSameSchedule(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(draw(t, 7, 10*time.Minute), draw(t, 7, 10*time.Minute)); diff != "" {
		t.Errorf("the same seed gives two schedules:\n%s", diff)
	}
	if cmp.Equal(draw(t, 7, 10*time.Minute), draw(t, 8, 10*time.Minute).as(7)) {
		t.Error("two seeds give the same schedule")
	}
}

// as is the schedule with another seed written on it.
func (s Schedule) as(seed uint64) Schedule { s.Seed = seed; return s }

func TestMoreCallsChangeNoStep(t *testing.T) {
	t.Parallel()
	few := draw(t, 3, 10*time.Minute)
	many, err := Draw(Options{Seed: 3, Duration: 10 * time.Minute, Rate: 5})
	if err != nil {
		t.Fatal(err)
	}
	if len(many.Calls) < 3*len(few.Calls) {
		t.Errorf("at five times the rate there are %d calls instead of %d", len(many.Calls), len(few.Calls))
	}
	if diff := cmp.Diff(few.Disruptions, many.Disruptions) + cmp.Diff(few.Faults, many.Faults); diff != "" {
		t.Errorf("the rate of calls changes what is disrupted:\n%s", diff)
	}
}

func TestNoFaults(t *testing.T) {
	t.Parallel()
	s, err := Draw(Options{Seed: 3, Duration: 10 * time.Minute, Rate: 1, NoFaults: true})
	if err != nil {
		t.Fatal(err)
	}
	want := draw(t, 3, 10*time.Minute)
	want.Faults = nil
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("without faults the rest of the schedule is another one:\n%s", diff)
	}
}

func TestScheduleHasEverything(t *testing.T) {
	t.Parallel()
	for _, duration := range []time.Duration{time.Minute, 2 * time.Minute, 10 * time.Minute, time.Hour} {
		for seed := range uint64(20) {
			s := draw(t, seed, duration)
			for _, kind := range Disruptions() {
				if !slices.ContainsFunc(s.Disruptions, func(step Step) bool { return step.Kind == kind }) {
					t.Errorf("seed %d has no %s in %s", seed, kind, duration)
				}
			}
			for _, kind := range Faults() {
				if !slices.ContainsFunc(s.Faults, func(step Step) bool { return step.Kind == kind }) {
					t.Errorf("seed %d has no %s in %s", seed, kind, duration)
				}
			}
			for _, step := range slices.Concat(s.Disruptions, s.Faults) {
				if step.At < Offset(atEnds) || step.At > Offset(duration-atEnds) {
					t.Errorf("seed %d has a %s at %s of %s", seed, step.Kind, step.At, duration)
				}
			}
			for i, c := range s.Calls {
				if c.Length <= 0 || c.At+c.Length > s.Duration {
					t.Fatalf("seed %d has a call from %s for %s in %s", seed, c.At, c.Length, duration)
				}
				if i > 0 && c.At < s.Calls[i-1].At {
					t.Fatalf("seed %d has a call at %s after one at %s", seed, c.At, s.Calls[i-1].At)
				}
			}
		}
	}
}

func TestCallsAreMixed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		s := draw(t, seed, 10*time.Minute)
		var seconds, minute, minutes, whole int
		workloads := map[string]int{}
		for _, c := range s.Calls {
			workloads[c.Workload]++
			switch length := time.Duration(c.Length); {
			case length == 10*time.Minute:
				whole++
			case length > 2*time.Minute:
				minutes++
			case length > 20*time.Second:
				minute++
			default:
				seconds++
			}
		}
		if whole != len(Workloads()) || seconds < 200 || minute < 50 || minutes < 15 {
			t.Errorf("seed %d has calls of seconds %d, a minute %d, minutes %d, the whole run %d", seed, seconds, minute, minutes, whole)
		}
		for _, w := range Workloads() {
			if workloads[w] < 100 {
				t.Errorf("seed %d has %d calls of %s in ten minutes", seed, workloads[w], w)
			}
		}
	}
}

func TestScheduleIsReadBack(t *testing.T) {
	t.Parallel()
	s := draw(t, 5, 2*time.Minute)
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var read Schedule
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, read); diff != "" {
		t.Errorf("a schedule changes on its way through a file:\n%s", diff)
	}
	if !strings.Contains(string(text), `"duration":"2m0s"`) {
		t.Errorf("people cannot read the times of %.200s", text)
	}
	if err := json.Unmarshal([]byte(`{"duration":"soon"}`), &read); err == nil || !strings.Contains(err.Error(), "1m30s") {
		t.Errorf("a wrong time is answered %v; want one that would work", err)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	at := func(seconds int) Offset { return Offset(time.Duration(seconds) * time.Second) }
	s := Schedule{
		Seed: 9, Duration: at(1800), Rate: 1,
		Calls: []Call{
			{At: 0, Length: at(1800), Workload: Python},
			{At: at(10), Length: at(20), Workload: Node},
			{At: at(590), Length: at(20), Workload: Node},
			{At: at(700), Length: at(5), Workload: NodeGated},
			{At: at(1190), Length: at(60), Workload: NodeGated},
			{At: at(1300), Length: at(5), Workload: Node},
		},
		Disruptions: []Step{{At: at(599), Kind: RollOut}, {At: at(600), Kind: DrainNode, Node: 3}, {At: at(1300), Kind: ScaleUp}},
		Faults:      []Step{{At: at(1200), Kind: KillGate, Pick: 5}},
	}
	want := Schedule{
		Seed: 9, Duration: at(600), Rate: 1, From: at(600),
		Calls: []Call{
			{At: 0, Length: at(600), Workload: Python},
			{At: 0, Length: at(10), Workload: Node},
			{At: at(100), Length: at(5), Workload: NodeGated},
			{At: at(590), Length: at(10), Workload: NodeGated},
		},
		Disruptions: []Step{{At: 0, Kind: DrainNode, Node: 3}},
		Faults:      []Step{{At: at(600), Kind: KillGate, Pick: 5}},
	}
	if diff := cmp.Diff(want, s.Tail(at(1200), at(600))); diff != "" {
		t.Errorf("the last ten minutes before 20m are wrong:\n%s", diff)
	}
	if diff := cmp.Diff(s, s.Tail(at(3000), at(3600))); diff != "" {
		t.Errorf("the tail of a shorter schedule is not all of it:\n%s", diff)
	}
	if again := s.Tail(at(1200), at(600)).Tail(at(600), at(60)); again.From != at(1140) {
		t.Errorf("the tail of a tail begins at %s of the seed's schedule; want 19m", again.From)
	}
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason string
		give   Options
		says   []string
	}{
		"TooShort": {reason: "Nothing fits into seconds.", give: Options{Duration: time.Second, Rate: 1}, says: []string{"duration is 1s; use 1m0s to 24h0m0s"}},
		"Both":     {reason: "All mistakes are told at once.", give: Options{Duration: 48 * time.Hour}, says: []string{"duration is 48h0m0s", "rate is 0 calls a second; use 0.1 to 20"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Draw(tc.give)
			for _, text := range tc.says {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%s: the error is %v; want %q", tc.reason, err, text)
				}
			}
		})
	}
}
