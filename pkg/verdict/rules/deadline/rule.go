// SPDX-License-Identifier: Apache-2.0

// Package deadline bounds how long a pod is held once it takes no new call: by the
// administrator, or sooner by the team whose pod it is.
package deadline

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "deadline" }

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining || f.Pod.Drained.IsZero() {
		return verdict.Verdict{}
	}
	held := f.Now.Sub(f.Pod.Drained)
	switch {
	case f.Limits.MaxHold > 0 && held >= f.Limits.MaxHold:
		return verdict.Verdict{Outcome: verdict.Release, Why: "it was held for as long as the administrator allows", Forced: true}
	case f.Deadline.Release && f.Deadline.After > 0 && held >= f.Deadline.After:
		return verdict.Verdict{Outcome: verdict.Release, Why: "its own drain deadline is over", Forced: true}
	default:
		return verdict.Verdict{}
	}
}
