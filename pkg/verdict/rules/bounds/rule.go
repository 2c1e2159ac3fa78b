// SPDX-License-Identifier: Apache-2.0

// Package bounds sets pods aside, a limited number at a time. Without a limit, a pod whose
// replacement returns to the same node would be replaced again and again.
//
// For a scale-down or a rollout exactly as many pods were chosen as the owner has too many,
// so no other limit is needed.
package bounds

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "bounds" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "its replacements, which come a few at a time",
		Do:    "see why new pods of its workload are not ready: room, quota, image, node selector; or, with a call-gate, why their workers are not registered with LiveKit",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	switch {
	case f.Pod.State != call.Serving:
		return verdict.Verdict{}
	case f.Pod.CameSince:
		return hold("it came after the " + string(f.Intent.Intent) + " began, and so would its replacement; to have it go all the same, annotate it with " + call.LeaveAnnotation)
	case f.Pod.InPlace != "" || f.Intent.Intent == call.Orphan:
		return verdict.Verdict{}
	case !f.Intent.Intent.OfNode():
		return aside(f)
	case waits(f) && f.Workload.Unable.Why != "":
		return hold("replacements of its workload cannot take calls: " + f.Workload.Unable.Sentence())
	case waits(f):
		return hold("replacement pods are not ready yet")
	case f.Workload.Aside >= f.Workload.Desired:
		return hold("as many pods of its workload are set aside as it has replicas")
	default:
		return aside(f)
	}
}

// waits reports whether replacements that are starting have to be ready first. That is not
// so for a pod that takes no calls itself, nor if its team requires no other pod, nor on a
// node that ends within minutes, because then all of its pods have to be replaced.
func waits(f verdict.Facts) bool {
	return f.Notice == "" && f.Workload.Coming >= f.Workload.Surge && f.Workload.MinAvailable > 0 && f.Pod.Unable.Why == ""
}

func aside(f verdict.Facts) verdict.Verdict {
	why := "a replacement comes first"
	if f.Chosen != "" {
		why = f.Chosen
	}
	return verdict.Verdict{Outcome: verdict.SetAside, Why: why}
}

func hold(why string) verdict.Verdict { return verdict.Verdict{Outcome: verdict.Hold, Why: why} }
