// SPDX-License-Identifier: Apache-2.0

// Package ended releases pods that run no regular container. By the kubelet's report they
// hold no call. They are marked as draining first, so that a container that starts again
// accepts none.
package ended

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "ended" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "callguard, which lets it go within seconds",
		Do:    "nothing",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	switch {
	case f.Pod.Running:
		return verdict.Verdict{}
	case f.Pod.State == call.Serving && f.Pod.CameSince:
		return verdict.Verdict{} // it was created since, and may be about to run
	case f.Pod.State != call.Draining:
		return verdict.Verdict{Outcome: verdict.Drain, Why: "its agent does not run"}
	default:
		return verdict.Verdict{Outcome: verdict.Release, Why: "its agent does not run"}
	}
}
