// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/callguard/callguard/test/fleet"
)

// agreeWithin is how far active_calls may be behind the callers. Agents see a
// caller leave up to 3 s late.
const agreeWithin = 10 * time.Second

// account remembers what the snapshots showed.
type account struct {
	peakCalls    int
	peakReplicas int32
	last         snapshot
	history      []point       // calls up, over time
	lag          time.Duration // the longest that active_calls was behind
	unanswered   int           // snapshots without active_calls
	why          string
}

// point is the number of calls at a time.
type point struct {
	at    time.Duration
	calls int
}

func (a *account) add(s snapshot) {
	a.last = s
	a.peakCalls = max(a.peakCalls, s.Calls)
	a.peakReplicas = max(a.peakReplicas, s.Scaling.Desired)
	a.history = append(a.history, point{s.At, s.Calls})
	if s.Active.Why != "" {
		a.unanswered++
		a.why = s.Active.Why
		return
	}
	a.lag = max(a.lag, behind(a.history, int(s.Active.N)))
}

// behind returns how long ago as many calls were up as are active now. Between two points
// they had every number in between. Without such a point: longer than the history.
func behind(history []point, active int) time.Duration {
	if len(history) == 0 {
		return 0
	}
	now := history[len(history)-1]
	low, high := now.calls, now.calls
	for _, p := range slices.Backward(history) {
		low, high = min(low, p.calls), max(high, p.calls)
		if low <= active && active <= high {
			return now.at - p.at
		}
	}
	return now.at + agreeWithin
}

// wanted is how many replicas the peak asks for: so many that none has more than
// a tenth too much, which the autoscaler tolerates.
func (a *account) wanted() int32 {
	const most = 11 * callsPerReplica // tenths
	return int32((10*a.peakCalls + most - 1) / most)
}

// agreed reports whether active_calls was always there and never far behind.
func (a *account) agreed() bool { return a.unanswered == 0 && a.lag <= agreeWithin }

// summary describes the result.
func summary(a *account, r fleet.Report) string {
	var b strings.Builder
	say := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(&b, "%-20s%s\n", what, fmt.Sprintf(format, args...))
	}
	say("peak", "%d calls, %d replicas (%d are needed)", a.peakCalls, a.peakReplicas, a.wanted())
	say("replicas at the end", "%d", a.last.Scaling.Desired)
	say("calls", "%d dialled, %d answered, %d completed, %d lost, %d unanswered", r.Dialled, r.Answered, r.Completed, len(r.Dropped), r.Unanswered)
	switch {
	case a.unanswered > 0:
		say("active_calls", "was not served %d of %d times, at last because of %s", a.unanswered, len(a.history), a.why)
	case !a.agreed():
		say("active_calls", "did not always agree with the callers within %s", agreeWithin)
	default:
		say("active_calls", "at most %.1f s behind the callers (%s is allowed)", a.lag.Seconds(), agreeWithin)
	}
	for _, l := range r.Dropped {
		say("dropped", "room %s, pod %s: %s %s", l.Room, l.Pod, l.Cause, l.Detail)
	}
	return b.String()
}

// judge lists everything that is wrong.
func judge(a *account, r fleet.Report) error {
	var errs []error
	if a.peakReplicas < a.wanted() {
		errs = append(errs, fmt.Errorf("it grew to %d replicas, not to %d", a.peakReplicas, a.wanted()))
	}
	if !a.last.settled() {
		errs = append(errs, fmt.Errorf("it did not come back to 1 replica within %s: %s", settleWithin, line(a.last)))
	}
	if len(r.Dropped) > 0 || r.Unanswered > 0 {
		errs = append(errs, fmt.Errorf("%d calls were dropped and %d not answered", len(r.Dropped), r.Unanswered))
	}
	if !a.agreed() {
		errs = append(errs, fmt.Errorf("active_calls did not always agree with the callers within %s", agreeWithin))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("the logs of the cluster and the metrics-adapter are kept in callguard/clusters/demo.logs of the user's cache folder"))
	}
	return errors.Join(errs...)
}
