// SPDX-License-Identifier: Apache-2.0

// Package patience limits how long a pod waits for replacements before it stops accepting
// calls: for room, a quota, or a pod that never becomes ready. A pod with calls keeps
// serving until they end; only a deadline limits that.
//
// A pod that leaves by this rule is not set aside: its replacement starts when it is gone,
// and may take its place.
package patience

import (
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// unreadyFor is how long a pod must have been unready before no caller loses anything if it
// stops taking calls. It is longer than a single failed probe.
const unreadyFor = time.Minute

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "patience" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "callguard, which takes this step within seconds",
		Do:    "nothing",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	switch {
	case f.Pod.State == call.Draining || f.Since.IsZero():
		return verdict.Verdict{}
	case f.Overdue() != "":
		return drain(f.Overdue())
	case f.Pod.State == call.Serving && f.Pod.CameSince:
		return verdict.Verdict{} // the next one would wait, too, and then go, and so on
	case !f.Idle():
		return verdict.Verdict{}
	case !f.Pod.Ready && !f.Pod.UnreadySince.IsZero() && f.Now.Sub(f.Pod.UnreadySince) >= unreadyFor:
		return drain("it is idle, and has not been ready for a minute")
	case halted(f):
		return verdict.Verdict{}
	case f.Now.Sub(later(f.Since, f.Workload.Arrived)) >= f.Limits.ReplacementWait:
		return drain("it is idle, and replacements that can take calls have not come within --replacement-wait")
	default:
		return verdict.Verdict{}
	}
}

// halted reports whether the pod's owner itself would stop here: no other pod can take
// calls, or new pods exist and cannot. This applies only to what an owner wants, not to a
// node's drain.
func halted(f verdict.Facts) bool {
	return !f.Intent.Intent.OfNode() && (f.Workload.Able == 0 || f.Workload.Unable.Why != "")
}

// later returns the later time, from which the wait counts again: as long as other pods
// keep arriving, there is progress.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func drain(why string) verdict.Verdict { return verdict.Verdict{Outcome: verdict.Drain, Why: why} }
