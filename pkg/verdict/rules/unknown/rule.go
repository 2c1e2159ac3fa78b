// SPDX-License-Identifier: Apache-2.0

// Package unknown holds a pod while a witness cannot tell: unknown is never zero.
package unknown

import (
	"fmt"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// Rule is the rule.
type Rule struct{}

// Name implements verdict.Rule.
func (Rule) Name() string { return "unknown" }

// Judge implements verdict.Rule.
func (Rule) Judge(f verdict.Facts) verdict.Verdict {
	if f.Pod.State != call.Draining {
		return verdict.Verdict{}
	}
	for _, r := range f.Readings {
		if !r.Known() {
			return verdict.Verdict{Outcome: verdict.Hold, Why: fmt.Sprintf("its witness %s cannot tell whether it holds calls: %s", r.Witness, r.Reason())}
		}
	}
	return verdict.Verdict{}
}
