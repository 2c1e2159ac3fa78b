// SPDX-License-Identifier: Apache-2.0

// Package idle releases a pod when every one of its witnesses says zero, on readings
// taken after it stopped taking calls. Of a pod with a gate, LiveKit's has to have begun
// after the gate said zero with the order to drain: what LiveKit said before says nothing of
// a call that began since.
package idle

import (
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "idle" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "callguard, which lets it go within seconds",
		Do:    "nothing",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining || f.Pod.DrainingSince.IsZero() || len(f.Readings) == 0 {
		return verdict.Verdict{}
	}
	from := f.Pod.DrainingSince
	if !f.Sealed {
		if !settles(f) {
			return verdict.Verdict{}
		}
		from = f.QuietSince.Add(f.Limits.Settle)
	}
	for _, r := range f.Readings {
		n, known := r.Calls()
		if !known && r.Witness == call.Rooms && f.Sealed && f.Intent.Intent == call.Orphan {
			continue // LiveKit may have gone with the pod's owner, and the gate is sure by itself
		}
		if !known || n > 0 || !r.At().After(from) || r.Witness == call.Rooms && !r.At().After(overSince(f)) {
			return verdict.Verdict{}
		}
	}
	return verdict.Verdict{Outcome: verdict.Release, Why: "its calls are over"}
}

// overSince is since when the pod's gate has said the same as now; zero where there is none.
func overSince(f verdict.Facts) time.Time {
	for _, r := range f.Readings {
		if r.Witness == call.Gate {
			return r.Since
		}
	}
	return time.Time{}
}

// settles reports whether time alone can make zero final.
func settles(f verdict.Facts) bool {
	for _, r := range f.Readings {
		switch {
		case r.Witness == call.Gate:
			return false // it has not read the order, so it lets calls in
		case r.Witness == call.Rooms && len(f.Readings) == 1 && r.At().Sub(r.Since) < f.Limits.Settle:
			return false // an agent that loses its room joins it again, and nobody else counts its call
		}
	}
	return true
}
