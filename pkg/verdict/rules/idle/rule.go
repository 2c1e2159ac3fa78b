// SPDX-License-Identifier: Apache-2.0

// Package idle releases a pod when every one of its witnesses says zero, on readings taken
// after it stopped taking calls. If the pod has a gate, LiveKit's reading has to have begun
// after the gate had the order to drain and said zero, because an earlier one may miss a
// call that began later.
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
			continue // LiveKit may be gone together with the pod's owner, and the gate alone is certain
		}
		if !known || n > 0 || !r.At().After(from) || r.Witness == call.Rooms && !r.At().After(overSince(f)) {
			return verdict.Verdict{}
		}
	}
	return verdict.Verdict{Outcome: verdict.Release, Why: "its calls are over"}
}

// overSince returns since when the pod's gate has said the same as now; zero if it has no
// gate.
func overSince(f verdict.Facts) time.Time {
	for _, r := range f.Readings {
		if r.Witness == call.Gate {
			return r.Since
		}
	}
	return time.Time{}
}

// settles reports whether a zero becomes final merely by waiting.
func settles(f verdict.Facts) bool {
	for _, r := range f.Readings {
		switch {
		case r.Witness == call.Gate:
			return false // it has not read the order, so it still accepts calls
		case r.Witness == call.Rooms && len(f.Readings) == 1 && r.At().Sub(r.Since) < f.Limits.Settle:
			return false // an agent that loses its room joins it again, and no other witness counts its call
		}
	}
	return true
}
