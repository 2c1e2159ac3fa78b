// SPDX-License-Identifier: Apache-2.0

// Package cli implements the kubectl-calls commands list, why, drain and doctor.
//
// It decides nothing: why a pod stays is what package guard makes of it, whose
// doors and budgets it also takes. It writes in one verb only, drain, which cordons
// a node and evicts its pods as kubectl does. What it could not read is unknown,
// and never zero.
package cli
