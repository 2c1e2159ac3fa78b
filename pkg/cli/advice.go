// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules"
)

// ofRule returns the advice of a rule.
func ofRule(rule string) verdict.Advice {
	if rule == guard.RuleDoors {
		return verdict.Advice{Waits: "callguard's admission policies", Do: "apply the chart again; kubectl calls doctor says what is missing"}
	}
	advice, _ := rules.All().Advice(rule) // the verdict is from one of these rules
	return advice
}

// notKnownHere replaces the verdict on a pod whose calls this plugin cannot read: the
// guard's verdict is not known here.
const notKnownHere = "without the metrics API its calls are not known here; the guard asks its witnesses itself, and lets it go when all say zero"

// onlyGuardKnows reports that a verdict depends on a missing number that the guard does not
// take from the metrics API, and may have.
func onlyGuardKnows(x guard.Explanation, n counts) bool {
	return n.unread && x.Verdict.Rule == "unknown"
}

// adviceOn returns what an explained pod waits for, and what an operator can do.
func adviceOn(x guard.Explanation) verdict.Advice {
	switch {
	case x.Verdict.Rule == "bounds" && x.Verdict.Outcome == verdict.Hold && x.Facts.Pod.CameSince:
		return verdict.Advice{Waits: "nothing: it came to the node after it was cordoned or marked", Do: "take the toleration of the cordon out of its workload; uncordon the node, or annotate the pod with " + call.LeaveAnnotation}
	case x.Verdict.Rule != "" && x.Verdict.Outcome != verdict.Hold && x.Verdict.Outcome != verdict.Serve && x.Verdict.Rule != "deadline":
		return verdict.Advice{Waits: "callguard, which takes this step within seconds", Do: "nothing"}
	case x.Verdict.Rule != "":
		return ofRule(x.Verdict.Rule)
	case x.Intent.Intent == call.Unlock:
		return verdict.Advice{Waits: "nothing", Do: "to have it locked again, replace it: kubectl rollout restart"}
	case x.Pod.DeletionTimestamp != nil:
		return verdict.Advice{Waits: "its containers to end, within its grace period", Do: "nothing"}
	default:
		return verdict.Advice{Waits: "eviction by whoever drains its node; otherwise callguard deletes it", Do: "nothing"}
	}
}

// limit returns when a pod is released whatever calls it holds, by the times in objects;
// empty if never, or if it is not held.
func limit(x guard.Explanation) string {
	if x.Facts.Standing.IsZero() || x.Intent.At.IsZero() || x.State == call.Released {
		return ""
	}
	if by := x.Facts.LetGoBy; !by.IsZero() {
		return clock(by) + ", by the guard's --node-termination-limit; it is released then, with its calls"
	}
	var after time.Duration
	by := ""
	if d := x.Facts.Deadline; d.Release && d.After > 0 {
		after, by = d.After, "annotation "+call.DeadlineAnnotation
	}
	if most := x.Facts.Limits.MaxHold; most > 0 && (by == "" || most < after) {
		after, by = most, "the guard's --max-hold"
	}
	switch {
	case by == "":
		return ""
	case x.Intent.Intent == call.ScaleDown:
		return fmt.Sprintf("%s, by %s, unless it is known to hold calls", clock(x.Intent.At.Add(after)), by)
	default:
		return fmt.Sprintf("%s, by %s; it is released then, with its calls", clock(x.Intent.At.Add(after)), by)
	}
}
