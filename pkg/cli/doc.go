// SPDX-License-Identifier: Apache-2.0

// Package cli holds the verbs of the kubectl plugin: which calls there are, why a
// pod stays, a drain that waits for calls, and whether all is well.
//
// It decides nothing: why a pod stays is what package guard makes of it, whose
// doors and budgets it also takes. It writes in one verb only, drain, which cordons
// a node and evicts its pods as kubectl does. What it could not read is unknown,
// and never zero.
package cli
