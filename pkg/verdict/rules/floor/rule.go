// SPDX-License-Identifier: Apache-2.0

// Package floor lets a pod stop taking calls only while enough others of its
// workload can take them.
package floor

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "floor" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "others of its workload that can take calls in its place",
		Do:    "see why they are not ready: room, quota, image; or, with a call-gate, why their workers are not registered with LiveKit, which its Held Event says; or allow fewer with annotation " + call.MinAvailableAnnotation + " of the workload",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	switch {
	case f.Pod.State == call.Draining:
		return verdict.Verdict{}
	case f.Intent.Intent == call.LostNode && !f.Pod.Ready:
		return verdict.Verdict{Outcome: verdict.Drain, Why: "its node is lost"}
	case f.Pod.Unable.Why != "":
		return verdict.Verdict{Outcome: verdict.Drain, Why: "it can take no call itself: " + f.Pod.Unable.Sentence()}
	case f.Workload.TakeCalls() >= f.Floor():
		return verdict.Verdict{Outcome: verdict.Drain, Why: "enough other pods can take calls"}
	case f.Pod.InPlace != "":
		return verdict.Verdict{Outcome: verdict.Hold, Why: tooFew(f) + ", and it cannot be replaced first: " + f.Pod.InPlace}
	default:
		return verdict.Verdict{Outcome: verdict.Hold, Why: tooFew(f) + "; it goes on serving until replacements are ready"}
	}
}

func tooFew(f verdict.Facts) string {
	const why = "too few others of its workload can take calls"
	if f.Workload.Unable.Why == "" {
		return why
	}
	return why + ": " + f.Workload.Unable.Sentence()
}
