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

// believed is how long it may take at most until readings of an idle pod are late enough to
// be believed: LiveKit is read every few seconds.
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
		return verdict.Verdict{} // it has hardly stopped taking calls, and may yet be seen to be idle
	case f.Idle() && f.Now.Sub(f.Pod.DrainingSince) < f.Limits.Settle+believed:
		return verdict.Verdict{} // rule idle is about to believe it, and nobody is to be told of calls that there are not
	default:
		return verdict.Verdict{Outcome: verdict.Release, Why: why, Forced: true}
	}
}
