// SPDX-License-Identifier: Apache-2.0

// Package verdict decides, from facts alone, what happens next to a guarded pod,
// and which pods go when a workload has too many.
//
// It does no I/O, reads no clock and writes no log. Package guard acts on the answer;
// whoever asks with the same facts gets the same answer.
package verdict

// Outcome is what is to happen to a pod next.
type Outcome string

// The outcomes. Abstain is a rule's way to leave the pod to the next rule.
const (
	Abstain  Outcome = ""
	Serve    Outcome = "Serve"    // nothing wants it to go
	SetAside Outcome = "SetAside" // it is detached from its ReplicaSet
	Drain    Outcome = "Drain"    // it takes no new calls from now on
	Release  Outcome = "Release"  // it may be evicted and deleted
	Hold     Outcome = "Hold"     // it stays as it is
)

// Verdict is an Outcome, the rule that gave it, and the sentence an operator reads. Why
// contains no changing number, so that the sentence stays the same as long as the situation
// does.
type Verdict struct {
	Outcome   Outcome
	Rule, Why string
	// Forced reports that the pod is released although it may hold calls.
	Forced bool
}

// Rule has one opinion about a pod.
type Rule interface {
	// Name is one word, as metrics and Events carry it.
	Name() string
	// Judge abstains where the rule has no opinion.
	Judge(Facts) Verdict
	// Advice is for people who wait for a pod that the rule holds.
	Advice() Advice
}

// Advice says what a pod waits for, and what an operator can do.
type Advice struct{ Waits, Do string }

// Rules are asked in order.
type Rules []Rule

// Judge returns the first verdict that is not Abstain. If all rules abstain, the pod stays.
func (rs Rules) Judge(f Facts) Verdict {
	for _, r := range rs {
		if v := r.Judge(f); v.Outcome != Abstain {
			v.Rule = r.Name()
			return v
		}
	}
	return Verdict{Outcome: Hold, Rule: defaultRule, Why: "no rule releases the pod"}
}

// defaultRule is the rule that a verdict names if all rules abstained.
const defaultRule = "default"

// Advice returns the advice of a rule, by the name that verdicts carry, and whether there is
// such a rule.
func (rs Rules) Advice(rule string) (Advice, bool) {
	if rule == defaultRule {
		return Advice{Waits: "a rule that lets it go", Do: "report this to callguard's developers"}, true
	}
	for _, r := range rs {
		if r.Name() == rule {
			return r.Advice(), true
		}
	}
	return Advice{}, false
}
