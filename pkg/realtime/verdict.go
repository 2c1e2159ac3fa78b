// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"fmt"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// State is what the probes so far have found. The zero State has seen none.
type State struct {
	// Latest is the latest outcome, and At when it was there.
	Latest Outcome
	At     time.Time
	// Proven says that a session opened at some time.
	Proven bool

	// What follows is about the time since the last success, or since the start.

	// Failures counts the probes that failed, Fatals those of class Fatal. A
	// failure that may pass says nothing about the key, so it ends no row of Fatals.
	Failures, Fatals int
	// Since is when the first of them failed.
	Since time.Time
	// LatestFatal is the latest outcome of class Fatal.
	LatestFatal Outcome
}

// After is the state after one more outcome.
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

// Rules are how much is forgiven.
type Rules struct {
	// Strict forgives nothing: ready is who could open a session just now.
	Strict bool
	// Grace is how long failures are forgiven.
	Grace time.Duration
	// FatalAfter is how many fatal failures in a row are not forgiven any more.
	FatalAfter int
	// StaleAfter is the age from which a success proves nothing any more.
	StaleAfter time.Duration
}

// Verdict is what a readiness probe is told.
type Verdict struct {
	Ready  bool
	Class  Class
	Reason Reason // empty while it is Pending or OK
	// Why is the sentence an operator reads.
	Why string
	// Held says that it is ready only for the calls that the pod holds, or may hold.
	Held bool
}

// Judge reports whether the pod is ready. Calls is what the pod holds; nil if there
// is nobody to ask.
//
// A pod that holds calls stays ready whatever Realtime says: not ready ends no
// trouble there, while Kubernetes lets go of pods that are not ready first. Calls
// that are unknown are not zero.
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
	case !known && v.Class != Pending: // a pod that has only just started has not been ready yet
		v.Ready, v.Held = true, true
		v.Why += "; it stays ready because nobody knows whether it holds calls: " + calls.Reason()
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
			// A pod that never opened a session has nothing to lose by waiting for its first.
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
