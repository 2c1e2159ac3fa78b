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

// All are the rules, in the order in which they are asked:
//   - serving: nothing asks the pod to leave
//   - ended: nothing runs in it
//   - patience: to draining, after it has waited long enough for others
//   - bounds: from serving to aside
//   - floor: from aside to draining
//   - idle: from draining to released
//   - lostnode: the same, on a node that does not report
//   - deadline: the same, by force
//   - calls, unknown, settle: why it is held
func All() verdict.Rules {
	return verdict.Rules{
		serving.Rule{},
		ended.Rule{},
		patience.Rule{},
		bounds.Rule{},
		floor.Rule{},
		idle.Rule{},
		lostnode.Rule{},
		deadline.Rule{},
		calls.Rule{},
		unknown.Rule{},
		settle.Rule{},
	}
}
