// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// ReplayLength is how much of a schedule is kept before a dropped call.
const ReplayLength = Offset(10 * time.Minute)

// afterDrop is how long a replay goes on after the moment of the drop, which may come somewhat later there.
const afterDrop = Offset(30 * time.Second)

// Replay is the part of a schedule that plays once more what led to a drop at a moment.
func (s Schedule) Replay(dropped Offset) Schedule {
	return s.Tail(dropped+afterDrop, ReplayLength+afterDrop)
}

// Write writes the schedule into a file, for people and for Read.
func (s Schedule) Write(path string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the schedule: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot keep the schedule: %w", err)
	}
	return nil
}

// Read reads a schedule that Write wrote, perhaps changed by hand.
func Read(path string) (Schedule, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Schedule{}, fmt.Errorf("cannot read the schedule: %w", err)
	}
	var s Schedule
	if err := json.Unmarshal(text, &s); err != nil {
		return Schedule{}, fmt.Errorf("%s is no schedule: %w; use a file that a run wrote", path, err)
	}
	s.Pace, s.Nodes = cmp.Or(s.Pace, 1), cmp.Or(s.Nodes, Nodes)
	if err := s.Validate(); err != nil {
		return Schedule{}, fmt.Errorf("%s cannot be played: %w", path, err)
	}
	return s, nil
}

// Validate reports every mistake at once, each with a value that would work.
func (s Schedule) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Duration <= 0 || s.Duration > Offset(longest) {
		wrong("duration is %s; use up to %s, such as 10m", s.Duration, longest)
	}
	if s.Rate < slowest || s.Rate > fastest {
		wrong("rate is %g calls a second; use %g to %g, such as 1", s.Rate, slowest, fastest)
	}
	errs = append(errs, validateStage(s.Pace, s.Nodes)...)
	for i, c := range s.Calls {
		if c.At < 0 || c.Length <= 0 || c.At+c.Length > s.Duration {
			wrong("call %d is from %s for %s; it must be within the duration of %s", i, c.At, c.Length, s.Duration)
		}
		if !slices.Contains(Workloads(), c.Workload) {
			wrong("call %d is to workload %q; use one of %q", i, c.Workload, Workloads())
		}
	}
	steps := func(list []Step, what string, kinds []Kind) {
		for i, step := range list {
			if err := step.validate(s, kinds); err != nil {
				wrong("%s %d: %w", what, i, err)
			}
		}
	}
	steps(s.Disruptions, "disruption", Disruptions())
	steps(s.Faults, "fault", Faults())
	return errors.Join(errs...)
}

// validate reports the first mistake of a step.
func (s Step) validate(of Schedule, kinds []Kind) error {
	duration := of.Duration
	about := []Kind{RollOut, RollOutBad, ScaleUp, ScaleDown, DeletePods, OptOut, KillGate, HoldGate, FullDisk, KillAgent, AlterBudget, AlterLabels}
	switch {
	case !slices.Contains(kinds, s.Kind):
		return fmt.Errorf("kind is %q; use one of %q", s.Kind, kinds)
	case s.At < 0 || s.At > duration:
		return fmt.Errorf("it is at %s; it must be within the duration of %s", s.At, duration)
	case (slices.Contains(about, s.Kind) || s.Link == AgentsLiveKit) != slices.Contains(Workloads(), s.Workload):
		return fmt.Errorf("the workload of a %q is %q; use one of %q where it is about one, else leave it out", s.Kind, s.Workload, Workloads())
	case (s.Kind == KillGate || s.Kind == HoldGate || s.Kind == FullDisk) && !slices.Contains(Gated(), s.Workload):
		return fmt.Errorf("workload %q has no gate; use one of %q", s.Workload, Gated())
	case (s.Kind == ScaleUp || s.Kind == ScaleDown) && !slices.Contains(ByHand(), s.Workload):
		return fmt.Errorf("workload %q is scaled by its HPA; use one of %q", s.Workload, ByHand())
	case s.Node < 0 || s.Node >= of.Nodes:
		return fmt.Errorf("node is %d; use 0 to %d", s.Node, of.Nodes-1)
	case s.Count < 0 || s.Count > of.Nodes:
		return fmt.Errorf("count is %d; use up to %d", s.Count, of.Nodes)
	case s.Replicas < 0 || s.Replicas > 2*(mostReplicas+more(of.Nodes)):
		return fmt.Errorf("replicas is %d; use up to %d", s.Replicas, 2*(mostReplicas+more(of.Nodes)))
	case s.For < 0 || s.For > duration:
		return fmt.Errorf("it lasts %s; it must not be longer than the duration of %s", s.For, duration)
	case s.Pick < 0:
		return fmt.Errorf("pick is %d; use 0 or more", s.Pick)
	}
	return s.validateLink()
}
