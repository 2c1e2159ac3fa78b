// SPDX-License-Identifier: Apache-2.0

// Package serving leaves pods alone that nothing wants to go.
package serving

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "serving" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "nothing",
		Do:    "nothing; to have it go, drain its node, or annotate it with " + call.LeaveAnnotation,
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Intent.Intent != "" {
		return verdict.Verdict{}
	}
	return verdict.Verdict{Outcome: verdict.Serve, Why: "nothing asks the pod to leave"}
}
