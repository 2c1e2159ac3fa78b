// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// Mutant is one change that would break callguard, and the test that has to notice it.
type Mutant struct {
	// Name is the part and what is broken, such as "verdict/unknown-is-idle".
	Name string
	// File is changed, from the root of the repository: Old, which occurs Times times (once, if
	// zero), becomes New.
	File, Old, New string
	Times          int
	// Package is where Test is. Test has to fail.
	Package, Test string
	// Harm is what the change would do to callers, or to those who wait for them.
	Harm string
}

// times is how often the old text occurs.
func (m Mutant) times() int { return max(1, m.Times) }

// ofPolicies reports whether the mutant is one of the admission policies: its test needs a cluster.
func (m Mutant) ofPolicies() bool { return m.File == policies }

// part is the mutants of one part of callguard.
type part struct {
	of      string
	mutants []Mutant
}

func parts() []part {
	return []part{
		{"facts, thresholds, causes, the choice of pods, the order of rules (`pkg/verdict`)", verdictMutants()},
		{"each rule (`pkg/verdict/rules`)", ruleMutants()},
		{"drain-guard: readings, plan, writes, budgets (`pkg/guard`)", guardMutants()},
		{"call-gate: book, journal, frames (`pkg/callgate`)", gateMutants()},
		{"what is believed of LiveKit, agents and gates (`pkg/witness`, `pkg/call`)", roomsMutants()},
		{"admission policies (`manifests/doors.yaml`)", policyMutants()},
	}
}

// Catalogue lists all mutants.
func Catalogue() (all []Mutant) {
	for _, p := range parts() {
		all = append(all, p.mutants...)
	}
	return all
}

// Table is the table of docs/proof.md: how many mutants each part has.
func Table() string {
	var b strings.Builder
	b.WriteString("| part | mutants |\n|---|---|\n")
	for _, p := range parts() {
		fmt.Fprintf(&b, "| %s | %d |\n", p.of, len(p.mutants))
	}
	fmt.Fprintf(&b, "| all | %d |\n", len(Catalogue()))
	return b.String()
}
