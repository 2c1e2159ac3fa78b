// SPDX-License-Identifier: Apache-2.0

// Package settle holds a pod without calls until no call can still be on its way to it.
package settle

import (
	"slices"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "settle" }

// Advice implements verdict.Rule.
func (Rule) Advice() verdict.Advice {
	return verdict.Advice{
		Waits: "a short time, in which a call that is still being connected would appear; with call-gate, until it has read the drain annotation",
		Do:    "wait some seconds; if it lasts, check that call-gate's --order-file is the pod's annotations",
	}
}

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining || len(f.Readings) == 0 {
		return verdict.Verdict{}
	}
	why := "it is idle; waiting in case a call is still being connected"
	if !f.Sealed && slices.ContainsFunc(f.Readings, func(r verdict.Reading) bool { return r.Witness == call.Gate }) {
		why = "it is idle; waiting for call-gate to read the drain annotation (--order-file)"
	}
	return verdict.Verdict{Outcome: verdict.Hold, Why: why}
}
