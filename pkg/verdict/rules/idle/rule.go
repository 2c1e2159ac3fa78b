// SPDX-License-Identifier: Apache-2.0

// Package idle releases a pod when every one of its witnesses says zero, on readings
// taken after it stopped taking calls.
package idle

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "idle" }

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining || f.Pod.Drained.IsZero() || len(f.Readings) == 0 {
		return verdict.Verdict{}
	}
	from := f.Pod.Drained
	if !f.Sealed {
		from = f.QuietSince.Add(f.Limits.Settle)
	}
	for _, r := range f.Readings {
		if n, known := r.Calls(); !known || n > 0 || !r.At().After(from) {
			return verdict.Verdict{}
		}
	}
	return verdict.Verdict{Outcome: verdict.Release, Why: "its calls are over"}
}
