// SPDX-License-Identifier: Apache-2.0

// Package deadline limits how long a pod that should leave is held: by the
// administrator, or earlier by the team whose pod it is. By then package patience has
// stopped it from accepting calls.
package deadline

import (
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// believed is the maximum time until readings of an idle pod are recent enough to be
// believed: LiveKit is read every few seconds.
const believed = 10 * time.Second

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "deadline" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "callguard, which lets it go within seconds, with its calls",
		Do:    "nothing; the administrator or its team has set this limit",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	why := f.Overdue()
	switch {
	case why == "" || f.Pod.State != call.Draining || f.Pod.DrainingSince.IsZero():
		return verdict.Verdict{}
	case f.Now.Sub(f.Pod.DrainingSince) < f.Limits.Settle:
		return verdict.Verdict{} // it has only just stopped taking calls, and may soon be known to be idle
	case f.Idle() && f.Now.Sub(f.Pod.DrainingSince) < f.Limits.Settle+believed:
		return verdict.Verdict{} // rule idle is about to release it; do not report calls that do not exist
	default:
		return verdict.Verdict{Outcome: verdict.Release, Why: why, Forced: true}
	}
}
