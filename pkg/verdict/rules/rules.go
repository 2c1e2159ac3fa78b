// SPDX-License-Identifier: Apache-2.0

// Package rules lists the rules by which a guarded pod leaves, in their order.
package rules

import (
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules/bounds"
	"github.com/callguard/callguard/pkg/verdict/rules/calls"
	"github.com/callguard/callguard/pkg/verdict/rules/deadline"
	"github.com/callguard/callguard/pkg/verdict/rules/ended"
	"github.com/callguard/callguard/pkg/verdict/rules/floor"
	"github.com/callguard/callguard/pkg/verdict/rules/idle"
	"github.com/callguard/callguard/pkg/verdict/rules/lostnode"
	"github.com/callguard/callguard/pkg/verdict/rules/patience"
	"github.com/callguard/callguard/pkg/verdict/rules/serving"
	"github.com/callguard/callguard/pkg/verdict/rules/settle"
	"github.com/callguard/callguard/pkg/verdict/rules/unknown"
)

// All are the rules, in the order in which they are asked.
func All() verdict.Rules {
	return verdict.Rules{
		serving.Rule{},  // nobody wants it to go
		ended.Rule{},    // nothing runs in it
		patience.Rule{}, // → draining, after it has waited long enough for others
		bounds.Rule{},   // serving → aside
		floor.Rule{},    // aside → draining
		idle.Rule{},     // draining → released
		lostnode.Rule{}, // the same, on a node that does not report
		deadline.Rule{}, // the same, by force
		calls.Rule{},    // why it is held
		unknown.Rule{},
		settle.Rule{},
	}
}
