// SPDX-License-Identifier: Apache-2.0

// Package calls holds a pod while a witness counts calls.
package calls

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "calls" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "its callers to hang up",
		Do:    "wait; to end its calls now: kubectl calls end POD (break glass)",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	for _, r := range f.Readings {
		if n, known := r.Calls(); known && n > 0 && f.Pod.State == call.Draining {
			return verdict.Verdict{Outcome: verdict.Hold, Why: "it holds calls"}
		}
	}
	return verdict.Verdict{}
}
