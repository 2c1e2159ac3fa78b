// SPDX-License-Identifier: Apache-2.0

// Package lostnode releases pods of a node that does not report. The agent there usually
// cannot be asked. LiveKit can, and it drops an agent that it no longer hears from. A
// witness that still counts calls there is believed.
package lostnode

import (
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "lostnode" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "callguard, which lets it go within seconds",
		Do:    "nothing",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining || f.LostSince.IsZero() || !f.LeaseExpired {
		return verdict.Verdict{}
	}
	quiet, busy := false, false
	for _, r := range f.Readings {
		n, known := r.Calls()
		busy = busy || known && n > 0
		quiet = quiet || r.Witness == call.Rooms && known && !r.Unattributed() &&
			r.At().After(f.Pod.DrainingSince) && r.At().Sub(r.Since) >= f.Limits.LostQuiet
	}
	if quiet && !busy {
		return verdict.Verdict{Outcome: verdict.Release, Why: "its node is lost and LiveKit lists no agent of it"}
	}
	if f.Limits.LostAfter > 0 && f.Now.Sub(f.LostSince) >= f.Limits.LostAfter {
		return verdict.Verdict{Outcome: verdict.Release, Why: "its node has been lost for longer than --lost-node-release-after", Forced: true}
	}
	return verdict.Verdict{}
}
