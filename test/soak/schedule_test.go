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
	s, err := Draw(Options{Seed: seed, Duration: duration, Rate: 1, Pace: 1, Nodes: Nodes})
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
	many, err := Draw(Options{Seed: 3, Duration: 10 * time.Minute, Rate: 5, Pace: 1, Nodes: Nodes})
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

// TestRateDoesNotFillTheStage: who asks for ten times as many calls wants more of them, not ten times as many at once.
func TestRateDoesNotFillTheStage(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		s, err := Draw(Options{Seed: seed, Duration: 10 * time.Minute, Rate: 12, Pace: 1, Nodes: Nodes})
		if err != nil {
			t.Fatal(err)
		}
		var all []CallRecord
		lengthy := 0
		for _, c := range s.Calls {
			all = append(all, CallRecord{Began: c.At, Ended: c.At + c.Length})
			if time.Duration(c.Length) > time.Minute {
				lengthy++
			}
		}
		if most := mostAtOnce(all); len(all) < 6500 || most > 160 || lengthy < 100 {
			t.Errorf("seed %d has %d calls, %d at once and %d of more than a minute; want 7,000 or so, 160 at most and 100 at least", seed, len(all), most, lengthy)
		}
	}
}

func TestPaceBringsStepsCloser(t *testing.T) {
	t.Parallel()
	usual := draw(t, 3, 10*time.Minute)
	fast, err := Draw(Options{Seed: 3, Duration: 10 * time.Minute, Rate: 1, Pace: 2.5, Nodes: Nodes})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(usual.Calls, fast.Calls); diff != "" {
		t.Errorf("the pace changes calls:\n%s", diff)
	}
	if d, f := len(fast.Disruptions), len(fast.Faults); d != 145 || f != 72 {
		t.Errorf("in 580 s there are %d disruptions and %d faults; want one each 4 s, and one each 8 s", d, f)
	}
}

// TestLargerStage has drains on all of its nodes, and more replicas.
func TestLargerStage(t *testing.T) {
	t.Parallel()
	s, err := Draw(Options{Seed: 3, Duration: time.Hour, Rate: 1, Pace: 1, Nodes: 40})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	quarters, most := map[int]bool{}, 0
	for _, step := range s.Disruptions {
		if step.Count > 0 && step.Workload == "" {
			quarters[step.Node/10] = true
		}
		most = max(most, step.Replicas)
	}
	if len(quarters) != 4 || most != mostReplicas+3 {
		t.Errorf("nodes of %d of four quarters are drained, and a workload has up to %d replicas; want all and %d", len(quarters), most, mostReplicas+3)
	}
}

func TestNoFaults(t *testing.T) {
	t.Parallel()
	s, err := Draw(Options{Seed: 3, Duration: 10 * time.Minute, Rate: 1, Pace: 1, Nodes: Nodes, NoFaults: true})
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
	for _, duration := range []time.Duration{5 * time.Minute, 10 * time.Minute, time.Hour} {
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

// TestShortSchedules has no room for all kinds: none comes twice before every other has come, and other seeds have the others.
func TestShortSchedules(t *testing.T) {
	t.Parallel()
	for _, duration := range []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute} {
		came := map[Kind]bool{}
		for seed := range uint64(50) {
			s := draw(t, seed, duration)
			for _, list := range []struct {
				steps []Step
				kinds []Kind
			}{{s.Disruptions, Disruptions()}, {s.Faults, Faults()}} {
				count := map[Kind]int{}
				for _, step := range list.steps {
					count[step.Kind]++
					came[step.Kind] = true
				}
				for _, kind := range list.kinds {
					if rounds := (len(list.steps) + len(list.kinds) - 1) / len(list.kinds); count[kind] > rounds || count[kind] < rounds-1 {
						t.Errorf("seed %d has %s %d times among %d steps of %d kinds in %s", seed, kind, count[kind], len(list.steps), len(list.kinds), duration)
					}
				}
			}
		}
		for _, kind := range slices.Concat(Disruptions(), Faults()) {
			if !came[kind] {
				t.Errorf("no seed has a %s in %s", kind, duration)
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
		"TooShort": {reason: "Nothing fits into seconds.", give: Options{Duration: time.Second, Rate: 1, Pace: 1, Nodes: Nodes}, says: []string{"duration is 1s; use 1m0s to 24h0m0s"}},
		"Both":     {reason: "All mistakes are told at once.", give: Options{Duration: 48 * time.Hour}, says: []string{"duration is 48h0m0s", "rate is 0 calls a second; use 0.1 to 20", "pace is 0; use 0.1 to 5", "there are 0 nodes; use 10 to 100"}},
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
