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

// Intent is why a pod should go.
type Intent string

// The intents: a closed set.
const (
	NodeDrain Intent = "drain"      // its node is cordoned, or tainted for removal
	ScaleDown Intent = "scale-down" // its owner wants fewer pods
	Rollout   Intent = "rollout"    // its owner wants pods of another revision
	LostNode  Intent = "lost-node"  // its node is not ready or unreachable for longer than the pod tolerates
	Orphan    Intent = "orphan"     // an owner is gone or going
	Operator  Intent = "operator"   // LeaveAnnotation
	Unlock    Intent = "unlock"     // callguard unlocks all pods
)

// Intents lists the intents.
func Intents() []Intent {
	return []Intent{NodeDrain, ScaleDown, Rollout, LostNode, Orphan, Operator, Unlock}
}

// OfNode reports whether the workload still wants as many pods, so that a
// replacement has to start before the pod leaves.
func (i Intent) OfNode() bool { return i == NodeDrain || i == LostNode || i == Operator }

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
	After   time.Duration // zero: forever
	Release bool          // release the pod then, whatever calls it holds
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
