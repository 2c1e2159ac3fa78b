// SPDX-License-Identifier: Apache-2.0

// Package unknown holds a pod while a witness cannot tell: unknown is never zero.
package unknown

import (
	"fmt"
	"slices"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "unknown" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "its witnesses to answer, because unknown is not zero",
		Do:    "see the reason: LiveKit, the agent's port or call-gate does not answer",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining {
		return verdict.Verdict{}
	}
	for _, r := range f.Readings {
		if !r.Known() {
			return verdict.Verdict{Outcome: verdict.Hold, Why: fmt.Sprintf("its witness %s cannot tell whether it holds calls: %s%s", r.Witness, r.Reason(), lost(f))}
		}
	}
	return verdict.Verdict{}
}

// lost returns what keeps rule lostnode from releasing the pod, other than the time; empty
// if nothing does.
func lost(f verdict.Facts) string {
	switch {
	case f.LostSince.IsZero():
		return ""
	case f.LeaseUnread != nil:
		return "; whether its node is lost is not known: " + f.LeaseUnread.Error()
	case slices.ContainsFunc(f.Readings, func(r verdict.Reading) bool { return r.Unattributed() }):
		return "; its node is lost, but there are agents in LiveKit that name no pod in attribute " + call.PodAttribute
	default:
		return ""
	}
}
