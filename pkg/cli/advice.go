// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/verdict"
)

// breakGlass is how a call is ended on purpose.
const breakGlass = "to end its calls now, delete it as a member of the break-glass group (README of charts/callguard)"

// advice is what a pod waits for under a rule, and what an operator can do.
type advice struct{ waits, do string }

// advices has an entry for each rule that gives a verdict.
func advices() map[string]advice {
	return map[string]advice{
		"serving":       {waits: "nothing", do: "nothing; to have it go, drain its node, or annotate it with " + call.LeaveAnnotation},
		"ended":         {waits: "callguard, which lets it go within seconds", do: "nothing"},
		"patience":      {waits: "callguard, which takes this step within seconds", do: "nothing"},
		"bounds":        {waits: "its replacements, which come a few at a time", do: "see why new pods of its workload are not ready: room, quota, image, node selector; or, with a call-gate, why their workers are not registered with LiveKit"},
		"floor":         {waits: "others of its workload that can take calls in its place", do: "see why they are not ready: room, quota, image; or, with a call-gate, why their workers are not registered with LiveKit, which its Held Event says; or allow fewer with annotation " + call.MinAvailableAnnotation + " of the workload"},
		"idle":          {waits: "callguard, which lets it go within seconds", do: "nothing"},
		"lostnode":      {waits: "callguard, which lets it go within seconds", do: "nothing"},
		"deadline":      {waits: "callguard, which lets it go within seconds, with its calls", do: "nothing; the administrator or its team has set this limit"},
		"calls":         {waits: "its callers to hang up", do: "wait; " + breakGlass},
		"unknown":       {waits: "its witnesses to answer, for unknown is not zero", do: "see the reason: LiveKit, the agent's port or the gate does not answer"},
		"settle":        {waits: "a quiet time, in which a call that was on its way would show; with a call-gate, its word that it has the order", do: "wait some seconds; if it lasts, see what call-gate's --order-file is"},
		"default":       {waits: "a rule that lets it go", do: "report this to callguard's developers"},
		guard.RuleDoors: {waits: "callguard's admission policies", do: "apply the chart again; kubectl calls doctor says what is missing"},
	}
}

// notKnownHere stands for the verdict on a pod whose calls this plugin cannot read: what
// the guard makes of it is not known here.
const notKnownHere = "without the metrics API its calls are not known here; the guard asks its witnesses itself, and lets it go when all say zero"

// onlyGuardKnows says that a verdict is one of a missing number which the guard does not
// take from the metrics API, and may have.
func onlyGuardKnows(x guard.Explanation, n counts) bool {
	return n.unread && x.Verdict.Rule == "unknown"
}

// adviceOn says what an explained pod waits for, and what an operator can do.
func adviceOn(x guard.Explanation) advice {
	switch {
	case x.Verdict.Rule == "bounds" && x.Verdict.Outcome == verdict.Hold && x.Facts.Pod.CameSince:
		return advice{waits: "nothing: it came to the node after it was cordoned", do: "take the toleration of the cordon out of its workload; uncordon the node, or annotate the pod with " + call.LeaveAnnotation}
	case x.Verdict.Rule != "" && x.Verdict.Outcome != verdict.Hold && x.Verdict.Outcome != verdict.Serve && x.Verdict.Rule != "deadline":
		return advice{waits: "callguard, which takes this step within seconds", do: "nothing"}
	case x.Verdict.Rule != "":
		return advices()[x.Verdict.Rule]
	case x.Intent.Intent == call.Unlock:
		return advice{waits: "nothing", do: "to have it locked again, replace it: kubectl rollout restart"}
	case x.Pod.DeletionTimestamp != nil:
		return advice{waits: "its containers to end, within its grace period", do: "nothing"}
	default:
		return advice{waits: "whoever drains its node to evict it; callguard deletes it if nobody does", do: "nothing"}
	}
}

// limit says when a pod is let go whatever calls it holds, by the times that objects
// carry; empty when never, and when it is not held.
func limit(x guard.Explanation) string {
	if x.Facts.Standing.IsZero() || x.Intent.At.IsZero() || x.State == call.Released {
		return ""
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
		return fmt.Sprintf("%s, by %s: it is let go then, with its calls", clock(x.Intent.At.Add(after)), by)
	}
}
