// SPDX-License-Identifier: Apache-2.0

package main

import "slices"

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

// Catalogue lists all mutants.
func Catalogue() []Mutant {
	return slices.Concat(verdictMutants(), ruleMutants(), guardMutants(), gateMutants(), roomsMutants(), policyMutants())
}
