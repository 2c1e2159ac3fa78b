// SPDX-License-Identifier: Apache-2.0

package main

// ruleMutants break each rule of pkg/verdict/rules.
func ruleMutants() []Mutant {
	rule := func(rule, name, old, new, harm string) Mutant {
		return Mutant{
			Name: rule + "/" + name, File: "pkg/verdict/rules/" + rule + "/rule.go", Old: old, New: new,
			Package: "pkg/verdict/rules/" + rule, Test: "TestRule", Harm: harm,
		}
	}
	const (
		idleStart = "if f.Pod.State != call.Draining || f.Pod.DrainingSince.IsZero() || len(f.Readings) == 0 {"
		idleEnd   = "if !known || n > 0 || !r.At().After(from) || r.Witness == call.Rooms && !r.At().After(overSince(f)) {"
	)
	return []Mutant{
		rule("idle", "without-a-mark", idleStart, "if f.Pod.DrainingSince.IsZero() || len(f.Readings) == 0 {",
			"a pod that takes calls is let go between two of them"),
		rule("idle", "without-a-witness", idleStart, "if f.Pod.State != call.Draining || f.Pod.DrainingSince.IsZero() {",
			"a pod that nobody counts is let go"),
		rule("idle", "unknown-is-zero", idleEnd, "if known && (n > 0 || !r.At().After(from) || r.Witness == call.Rooms && !r.At().After(overSince(f))) {",
			"a witness that does not answer counts as one that says zero"),
		rule("idle", "old-readings-count", idleEnd, "if !known || n > 0 || !r.At().After(from.Add(-time.Hour)) || r.Witness == call.Rooms && !r.At().After(overSince(f)) {",
			"a zero from before the pod stopped taking calls lets it go"),
		rule("idle", "livekit-before-the-gate", idleEnd, "if !known || n > 0 || !r.At().After(from) {",
			"a call that began after LiveKit's list, and before the gate's zero, is lost"),
		rule("idle", "no-settle-time", "from = f.QuietSince.Add(f.Limits.Settle)", "from = f.QuietSince",
			"a call that is just being connected is lost"),
		rule("idle", "sealed-without-an-order", "if !f.Sealed {", "if f.Sealed {",
			"a gate that has not read the order is taken at its word"),
		rule("idle", "time-replaces-the-order", "return false // it has not read the order, so it still accepts calls", "continue // it has not read the order, so it still accepts calls",
			"a gate that still lets calls in is waited for only --settle"),
		rule("idle", "one-zero-of-livekit", "return false // an agent that loses its room joins it again, and no other witness counts its call", "continue // an agent that loses its room joins it again, and no other witness counts its call",
			"an agent that reconnects while only LiveKit counts it loses its call"),
		rule("idle", "no-livekit-needed", "f.Sealed && f.Intent.Intent == call.Orphan {", "f.Sealed {",
			"a drain does not wait for LiveKit, which may list an agent that the gate does not count"),

		rule("deadline", "without-a-mark", "f.Pod.State != call.Draining || f.Pod.DrainingSince.IsZero():", "f.Pod.State == call.Released || f.Pod.DrainingSince.IsZero():",
			"a pod that still takes calls is ended by a deadline"),
		rule("deadline", "before-it-settled", "case f.Now.Sub(f.Pod.DrainingSince) < f.Limits.Settle:", "case f.Now.Sub(f.Pod.DrainingSince) < 0:",
			"a deadline ends a pod in the moment in which it stops taking calls"),
		rule("deadline", "idle-is-forced", "case f.Idle() && ", "case !f.Idle() && ",
			"operators are told of lost calls that there were not"),

		rule("ended", "unready-has-ended", "case f.Pod.Running:", "case f.Pod.Running && f.Pod.Ready:",
			"a pod with calls that fails a probe is let go"),
		rule("ended", "without-a-mark", "case f.Pod.State != call.Draining:", "case f.Pod.State == call.Serving:",
			"a container that starts again takes calls in a pod that is let go"),
		rule("ended", "came-since-is-moved", "case f.Pod.State == call.Serving && f.Pod.CameSince:", "case f.Pod.State == call.Aside && f.Pod.CameSince:",
			"a replacement that is about to start is replaced, again and again"),

		rule("floor", "one-other-is-enough", "case f.Workload.TakeCalls() >= f.Floor():", "case f.Workload.TakeCalls() >= min(1, f.Floor()):",
			"a drain leaves one pod for all callers"),
		rule("floor", "one-more-than-wanted", "case f.Workload.TakeCalls() >= f.Floor():", "case f.Workload.TakeCalls() > f.Floor():",
			"a drain waits forever for one pod more than there is"),
		rule("floor", "lost-node-takes-calls", "case f.Intent.Intent == call.LostNode && !f.Pod.Ready:", "case f.Intent.Intent == call.LostNode:",
			"a pod that is ready stops taking calls because its node was away"),
		rule("floor", "unable-pods-wait", "case f.Pod.Unable.Why != \"\":", "case f.Pod.Unable.Why != \"\" && f.Pod.State == call.Draining:",
			"a pod that cannot take a call waits forever for others that can"),

		rule("lostnode", "lease-is-not-asked", "f.LostSince.IsZero() || !f.LeaseExpired {", "f.LostSince.IsZero() {",
			"pods of a node that reports are let go as lost"),
		rule("lostnode", "busy-is-let-go", "if quiet && !busy {", "if quiet {",
			"a gate on a lost node that still counts calls is not believed"),
		rule("lostnode", "nameless-agents", "known && !r.Unattributed() &&", "known &&",
			"an agent that names no pod may be of this one, and is lost"),
		rule("lostnode", "one-list-is-enough", "&& r.At().Sub(r.Since) >= f.Limits.LostQuiet", "",
			"one list of LiveKit that lacks an agent ends its call"),
		rule("lostnode", "limit-of-zero", "if f.Limits.LostAfter > 0 && f.Now", "if f.Now",
			"without --lost-node-release-after, pods of lost nodes are let go at once"),
		rule("lostnode", "old-readings-count", "r.At().After(f.Pod.DrainingSince) && ", "",
			"a list of LiveKit from before the mark lets the pod go"),

		rule("patience", "busy-stops-taking-calls", "case !f.Idle():\n\t\treturn verdict.Verdict{}\n\t", "",
			"a pod with calls stops taking others although nobody replaces it"),
		rule("patience", "no-wait-for-the-next", "later(f.Since, f.Workload.Arrived)", "f.Since",
			"pods stop taking calls while replacements come one by one"),
		rule("patience", "broken-rollout-goes-on", "case halted(f):\n\t\treturn verdict.Verdict{}\n\t", "",
			"a rollout to a broken revision empties the service"),
		rule("patience", "comes-back-forever", "case f.Pod.State == call.Serving && f.Pod.CameSince:", "case f.Pod.State == call.Aside && f.Pod.CameSince:",
			"a pod that returns to the cordoned node is replaced, again and again"),
		rule("patience", "one-failed-probe", ">= unreadyFor:", ">= 0:",
			"an idle pod stops taking calls for one failed probe"),

		rule("bounds", "comes-back-forever", "case f.Pod.CameSince:", "case f.Pod.CameSince && f.Pod.InPlace == \"\" && f.Chosen != \"\":",
			"a replacement on the cordoned node is replaced, again and again"),
		rule("bounds", "all-at-once", "f.Workload.Coming >= f.Workload.Surge &&", "f.Workload.Coming >= f.Workload.Desired &&",
			"a drain replaces all pods at once, more than there is room for"),
		rule("bounds", "aside-without-end", "case f.Workload.Aside >= f.Workload.Desired:", "case f.Workload.Aside >= 2*f.Workload.Desired:",
			"pods are set aside without end where replacements return to the node"),
		rule("bounds", "rollouts-wait", "case !f.Intent.Intent.OfNode():", "case f.Intent.Intent == call.ScaleDown:",
			"a rollout waits for replacements that its Deployment does not make"),
		rule("bounds", "notice-waits", "return f.Notice == \"\" && ", "return ",
			"the pods of a node that ends in minutes are replaced one by one"),

		rule("calls", "one-call-is-none", "known && n > 0 && f.Pod.State", "known && n > 1 && f.Pod.State",
			"operators do not read that a pod holds its last call"),
		rule("unknown", "unknown-releases", "return verdict.Verdict{Outcome: verdict.Hold,", "return verdict.Verdict{Outcome: verdict.Release,",
			"a pod is let go because a witness does not answer"),
		rule("unknown", "is-not-said", "if !r.Known() {", "if r.Known() {",
			"operators do not read which witness does not answer"),
		rule("settle", "lets-go", "return verdict.Verdict{Outcome: verdict.Hold,", "return verdict.Verdict{Outcome: verdict.Release,",
			"a pod that reads zero once is let go, with the call that is being connected"),
		rule("serving", "wanted-pods-serve", "if f.Intent.Intent != \"\" {", "if f.Intent.Intent == call.NodeDrain {",
			"rollouts and scale-downs never end"),
	}
}
