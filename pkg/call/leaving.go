// SPDX-License-Identifier: Apache-2.0

package call

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The annotations of a pod that is leaving, and of a workload whose pods may have
// to. They are part of the public contract.
const (
	// AsideAnnotation says why and since when a pod is no longer its ReplicaSet's.
	// Its value is a Mark.
	AsideAnnotation = "callguard.dev/aside"
	// HashAnnotation keeps the pod-template-hash that a pod had before it was set aside.
	HashAnnotation = "callguard.dev/hash"
	// LeaveAnnotation, with any value, is an operator's wish that this pod should go.
	LeaveAnnotation = "callguard.dev/leave"
	// MinAvailableAnnotation of a workload is how many of its pods must be able to
	// take calls while others leave: a number, or a percentage of its replicas.
	MinAvailableAnnotation = "callguard.dev/min-available"
	// DeadlineAnnotation of a pod template is how long a pod may be held from when
	// something wants it to go.
	DeadlineAnnotation = "callguard.dev/drain-deadline"
	// LaunchLimitAnnotation of a pod template is how long an agent without call-gate may
	// take to start a job that it was assigned; such as "2m". Zero is believed after so
	// long, where that is longer than the guard's --settle.
	LaunchLimitAnnotation = "callguard.dev/launch-limit"
	// OnDeadlineAnnotation of a pod template says what happens then.
	OnDeadlineAnnotation = "callguard.dev/on-deadline"
)

// PodAnnotations are the annotations of callguard's that its programs read of a pod.
func PodAnnotations() []string {
	return []string{
		DrainingAnnotation, WitnessesAnnotation, SecretAnnotation, SecretKeysAnnotation, SameURLAnnotation, WorkerPortAnnotation,
		AgentContainerAnnotation, GatePortAnnotation, AsideAnnotation, HashAnnotation, LeaveAnnotation, DeadlineAnnotation,
		LaunchLimitAnnotation, OnDeadlineAnnotation,
	}
}

// Intent is why a pod should go.
type Intent string

// The intents: a closed set.
const (
	Drain     Intent = "drain"      // its node is cordoned, or tainted for removal
	ScaleDown Intent = "scale-down" // its owner wants fewer pods
	Rollout   Intent = "rollout"    // its owner wants pods of another revision
	LostNode  Intent = "lost-node"  // its node is not ready or unreachable for longer than the pod tolerates
	Orphan    Intent = "orphan"     // an owner is gone or going
	Operator  Intent = "operator"   // LeaveAnnotation
	Unlock    Intent = "unlock"     // callguard lets go of everything
)

// Intents lists the intents.
func Intents() []Intent {
	return []Intent{Drain, ScaleDown, Rollout, LostNode, Orphan, Operator, Unlock}
}

// OfNode says whether the intent takes a pod whose workload still wants as many:
// a replacement comes before it goes.
func (i Intent) OfNode() bool { return i == Drain || i == LostNode || i == Operator }

// Mark is an intent and the time from which it has held, as annotations hold it.
type Mark struct {
	Intent Intent
	At     time.Time
}

// String writes a Mark as "<intent> <RFC 3339 time>", in UTC and whole seconds.
func (m Mark) String() string { return string(m.Intent) + " " + m.At.UTC().Format(time.RFC3339) }

// ParseMark reads what String writes.
func ParseMark(value string) (Mark, error) {
	intent, at, _ := strings.Cut(value, " ")
	when, err := time.Parse(time.RFC3339, at)
	if err != nil || !slices.Contains(Intents(), Intent(intent)) {
		return Mark{}, fmt.Errorf("mark %q is not an intent and a time, such as %q", value, "drain 2026-01-02T15:04:05Z")
	}
	return Mark{Intent: Intent(intent), At: when}, nil
}

// Deadline is how long a pod may be held once it takes no new call.
type Deadline struct {
	After   time.Duration // zero: for ever
	Release bool          // let the pod go then, whatever calls it holds
}

// ParseDeadline reads the values of DeadlineAnnotation and OnDeadlineAnnotation.
// Beside an error it returns the deadline that holds, which releases nothing.
func ParseDeadline(after, then string) (Deadline, error) {
	var errs []error
	var d Deadline
	if after != "" {
		parsed, err := time.ParseDuration(after)
		if err != nil || parsed <= 0 {
			errs = append(errs, fmt.Errorf("annotation %s is %q; use a duration above zero, such as %q", DeadlineAnnotation, after, "2h"))
		} else {
			d.After = parsed
		}
	}
	switch then {
	case "", "Hold":
	case "Release":
		d.Release = true
	default:
		errs = append(errs, fmt.Errorf("annotation %s is %q; use %q or %q", OnDeadlineAnnotation, then, "Hold", "Release"))
	}
	if len(errs) > 0 {
		return Deadline{After: d.After}, errors.Join(errs...)
	}
	return d, nil
}

// ParseLaunchLimit reads the value of LaunchLimitAnnotation; without one it is zero.
func ParseLaunchLimit(value string) (time.Duration, error) {
	if value == "" {
		return 0, nil
	}
	limit, err := time.ParseDuration(value)
	if err != nil || limit <= 0 {
		return 0, fmt.Errorf("annotation %s is %q; use a duration above zero, such as %q", LaunchLimitAnnotation, value, "2m")
	}
	return limit, nil
}

// ParseMinAvailable reads the value of MinAvailableAnnotation for a workload of
// so many replicas; a percentage is rounded up. Without a value, and beside an
// error, it returns all of the replicas.
func ParseMinAvailable(value string, replicas int) (int, error) {
	if value == "" {
		return replicas, nil
	}
	number, percent := strings.CutSuffix(value, "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || percent && n > 100 {
		return replicas, fmt.Errorf("annotation %s is %q; use a number of pods or a percentage of the replicas, such as %q or %q",
			MinAvailableAnnotation, value, "2", "50%")
	}
	if percent {
		return (n*replicas + 99) / 100, nil
	}
	return n, nil
}
