// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"fmt"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// State is the result of the probes so far. The zero State has seen none.
type State struct {
	// Latest is the latest outcome, and At its time.
	Latest Outcome
	At     time.Time
	// Proven reports that a session has opened at some time.
	Proven bool

	// The following fields are about the time since the last success, or since the start.

	// Failures counts the probes that failed, Fatals those of class Fatal. A failure that may
	// pass says nothing about the key, so it does not interrupt a series of Fatals.
	Failures, Fatals int
	// Since is when the first of them failed.
	Since time.Time
	// LatestFatal is the latest outcome of class Fatal.
	LatestFatal Outcome
}

// After returns the state after one more outcome.
func (s State) After(o Outcome, at time.Time) State {
	next := State{Latest: o, At: at, Proven: s.Proven || o.Class() == OK}
	if o.Class() == OK {
		return next
	}
	next.Failures, next.Fatals, next.Since, next.LatestFatal = s.Failures+1, s.Fatals, s.Since, s.LatestFatal
	if s.Failures == 0 {
		next.Since = at
	}
	if o.Class() == Fatal {
		next.Fatals, next.LatestFatal = s.Fatals+1, o
	}
	return next
}

// Rules are how failures are tolerated.
type Rules struct {
	// Strict tolerates nothing: the pod is ready only if the last session opened.
	Strict bool
	// Grace is how long failures are tolerated.
	Grace time.Duration
	// FatalAfter is the number of fatal failures in a row from which the pod is not ready.
	FatalAfter int
	// StaleAfter is the age from which a success no longer counts.
	StaleAfter time.Duration
}

// Verdict is the answer for a readiness probe.
type Verdict struct {
	Ready  bool
	Class  Class
	Reason Reason // empty while it is Pending or OK
	// Why is the sentence for an operator.
	Why string
	// Held reports that it is ready only because of the calls that the pod holds, or may hold.
	Held bool
}

// Judge decides whether the pod is ready. calls are the pod's calls; nil if there is no
// call-gate.
//
// A pod that holds calls stays ready whatever the Realtime API does: being unready would
// not help its calls, and Kubernetes deletes unready pods first. Unknown calls are not
// zero.
func (r Rules) Judge(s State, calls *call.Reading, now time.Time) Verdict {
	v := r.judge(s, now)
	if r.Strict {
		v.Ready = v.Class == OK
		return v
	}
	if v.Ready || calls == nil {
		return v
	}
	switch n, known := calls.Calls(); {
	case known && n > 0:
		v.Ready, v.Held = true, true
		v.Why += "; it stays ready because it holds calls"
	case !known && v.Class != Pending: // a pod that has just started has not been ready yet
		v.Ready, v.Held = true, true
		v.Why += "; it stays ready because it is unknown whether it holds calls: " + calls.Reason()
	}
	return v
}

func (r Rules) judge(s State, now time.Time) Verdict {
	forgiven := now.Sub(s.Since) < r.Grace
	switch {
	case s.At.IsZero():
		return Verdict{Class: Pending, Why: "the first probe has not ended yet"}
	case s.Failures == 0 && now.Sub(s.At) > r.StaleAfter:
		return Verdict{
			Ready: now.Sub(s.At) < r.StaleAfter+r.Grace, Class: Degraded, Reason: Stale,
			Why: "no probe has ended for long; look at the log of realtime-probe, and at its CPU limit",
		}
	case s.Failures == 0:
		return Verdict{Ready: true, Class: OK, Why: "a session opened"}
	case s.Fatals > 0:
		v := Verdict{
			// A pod that never opened a session loses nothing by waiting for the first.
			Ready: s.Proven && s.Fatals < r.FatalAfter && forgiven,
			Class: Fatal, Reason: s.LatestFatal.Reason, Why: s.LatestFatal.Why(),
		}
		if s.Latest.Class() != Fatal {
			v.Why += fmt.Sprintf("; since then %s: %s", s.Latest.Reason, s.Latest.What)
		}
		return v
	default:
		return Verdict{Ready: forgiven, Class: Degraded, Reason: s.Latest.Reason, Why: s.Latest.Why()}
	}
}
