// SPDX-License-Identifier: Apache-2.0

package main

const (
	verdictPackage = "pkg/verdict"
	rulesPackage   = "pkg/verdict/rules"
	factsFile      = "pkg/verdict/facts.go"
	intentFile     = "pkg/verdict/intent.go"
	leaversFile    = "pkg/verdict/leavers.go"
	orderFile      = "pkg/verdict/rules/rules.go"
)

// verdictMutants break facts, thresholds, causes, the choice of pods, and the order of rules.
func verdictMutants() []Mutant {
	facts := func(name, old, new, where, test, harm string) Mutant {
		return Mutant{Name: "verdict/" + name, File: factsFile, Old: old, New: new, Package: where, Test: test, Harm: harm}
	}
	intent := func(name, old, new, test, harm string) Mutant {
		return Mutant{Name: "intent/" + name, File: intentFile, Old: old, New: new, Package: verdictPackage, Test: test, Harm: harm}
	}
	leavers := func(name, old, new, harm string) Mutant {
		return Mutant{Name: "leavers/" + name, File: leaversFile, Old: old, New: new, Package: verdictPackage, Test: "TestLeavers", Harm: harm}
	}
	order := func(name, old, new, harm string) Mutant {
		return Mutant{Name: "order/" + name, File: orderFile, Old: old, New: new, Package: rulesPackage, Test: "TestStory", Harm: harm}
	}
	return []Mutant{
		facts("unknown-is-idle", "r.Calls(); !known || n > 0 {", "r.Calls(); known && n > 0 {", verdictPackage, "TestIdle",
			"a pod whose calls nobody knows stops taking calls as if it were idle"),
		facts("no-witness-is-idle", "return !f.Pod.Running || len(f.Readings) > 0", "return true", verdictPackage, "TestIdle",
			"a pod that nobody counts is taken for idle"),
		facts("no-limit-is-zero", "f.Limits.MaxHold > 0 && held >= f.Limits.MaxHold", "held >= f.Limits.MaxHold", verdictPackage, "TestOverdue",
			"without --max-hold every pod is let go at once, with its calls"),
		facts("warning-ends-calls", "f.Deadline.Release && f.Deadline.After > 0", "f.Deadline.After > 0", verdictPackage, "TestOverdue",
			"a deadline that should only warn ends calls"),
		facts("deadline-of-a-cancelled-drain", "if f.Standing.IsZero() {", "if f.Since.IsZero() {", verdictPackage, "TestOverdue",
			"a drain that was cancelled still ends calls"),
		facts("notice-asks-for-nobody", "floor = min(floor, 1)", "floor = 0", rulesPackage, "TestStory",
			"on a node that ends soon, the last able pod stops taking calls"),
		facts("aside-pods-take-no-calls", "return w.Able + w.Leaving", "return w.Able", "pkg/verdict/rules/floor", "TestRule",
			"pods that are aside wait for more replacements than there is room for"),
		facts("rollout-without-unavailable", "missing = w.MaxUnavailable", "missing = 0", verdictPackage, "TestFloorOfARollout",
			"a rollout waits forever where new pods need the place of old ones"),
		facts("in-place-waits-for-itself", "missing = 1\n", "missing = 0\n", verdictPackage, "TestFloor",
			"a pod of a StatefulSet waits forever for its own replacement"),
		facts("orphan-has-a-floor", "case intent == call.Orphan, w.Desired == 0,", "case w.Desired == 0,", rulesPackage, "TestStory",
			"pods of a deleted Deployment wait forever for others"),
		facts("min-available-is-ignored", "return max(0, min(w.MinAvailable, w.Desired-missing))", "return max(0, w.Desired-missing)", verdictPackage, "TestFloor",
			"a team that can do without some pods waits for all of them"),
		{Name: "verdict/no-opinion-releases", File: "pkg/verdict/verdict.go", Old: "return Verdict{Outcome: Hold, Rule: defaultRule", New: "return Verdict{Outcome: Release, Rule: defaultRule",
			Package: verdictPackage, Test: "TestJudge", Harm: "a pod on which no rule has an opinion is let go"},

		intent("removal-at-once", "!c.Daemon && !now.Before(c.Tainted.Add(removalDelay)):", "!c.Daemon:", "TestIntent",
			"pods move each time an autoscaler thinks of a node, though it mostly thinks better of it"),
		intent("drain-takes-daemons", "case !c.Cordoned.IsZero() && !c.Daemon:", "case !c.Cordoned.IsZero():", "TestIntent",
			"a cordon ends the pods of DaemonSets, which come back to the same node"),
		intent("road-goes-back", "case c.Marked.Intent != \"\":\n\t\treturn c.Marked, true", "case c.Marked.Intent != \"\" && c.OfNode():\n\t\treturn c.Marked, true", "TestIntent",
			"a pod that takes no calls any more stays so forever, when the drain is cancelled"),
		intent("toleration-is-ignored", "lost := !c.Lost.IsZero() && !now.Before(c.Lost)", "lost := !c.Lost.IsZero()", "TestIntent",
			"a node that was unreachable for a second is taken for lost"),
		intent("scale-down-has-a-deadline", "case c.Marked.Intent == call.Rollout, c.Excess.Intent == call.Rollout:", "case c.Marked.Intent != \"\", c.Excess.Intent != \"\":", "TestBehind",
			"a deadline ends calls of a scale-down, for which nobody waits"),
		intent("mark-has-a-deadline", "case !c.Cordoned.IsZero(), !c.Misfit.IsZero(), !c.Going.IsZero():", "case !c.Cordoned.IsZero(), !c.Misfit.IsZero(), !c.Going.IsZero(), !c.Candidate.IsZero():", "TestNothingStandsBehindAMark",
			"a deadline ends calls to empty a node that nobody needs"),

		leavers("unknown-goes-first", "case !c.Known:\n\t\treturn unknown", "case !c.Known:\n\t\treturn idle",
			"a scale-down prefers pods whose calls nobody knows"),
		leavers("most-calls-go-first", "cmp.Compare(a.Calls, b.Calls),", "cmp.Compare(b.Calls, a.Calls),",
			"a scale-down waits for the pods with the most calls"),
		leavers("youngest-call-goes-first", "return a.Compare(b)", "return b.Compare(a)",
			"a scale-down waits for calls that have just begun"),
		leavers("wanted-stays", "case c.Wanted:\n\t\treturn wantedAnyway", "case c.Wanted && !c.Wanted:\n\t\treturn wantedAnyway",
			"a scale-down moves pods beside those that have to go anyway"),

		order("force-before-idle", "idle.Rule{},\n\t\tlostnode.Rule{},\n\t\tdeadline.Rule{},", "deadline.Rule{},\n\t\tidle.Rule{},\n\t\tlostnode.Rule{},",
			"a pod whose calls are over is said to have been let go by force"),
		order("drain-before-aside", "bounds.Rule{},\n\t\tfloor.Rule{},", "floor.Rule{},\n\t\tbounds.Rule{},",
			"pods stop taking calls although they could be replaced first"),
		order("unknown-before-calls", "calls.Rule{},\n\t\tunknown.Rule{},", "unknown.Rule{},\n\t\tcalls.Rule{},",
			"operators read that nobody knows, while a witness counts calls"),
		order("bounds-before-patience", "patience.Rule{},\n\t\tbounds.Rule{},", "bounds.Rule{},\n\t\tpatience.Rule{},",
			"an idle pod waits forever for replacements that cannot come"),
		order("unwanted-pods-are-judged", "serving.Rule{},\n\t\tended.Rule{},", "ended.Rule{},\n\t\tserving.Rule{},",
			"a pod whose container restarts is marked for good, though nobody wants it to go"),
	}
}
