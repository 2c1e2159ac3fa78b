// SPDX-License-Identifier: Apache-2.0

// Package cli implements the kubectl-calls commands list, why, plan, drain, status, end,
// doctor, try and version.
//
// It decides nothing: why a pod stays is what package guard makes of it, whose
// doors and budgets it also takes. It writes in two verbs: drain cordons nodes and
// evicts their pods as kubectl does, and end deletes a pod for a member of the
// break-glass group, and leaves an Event. What it could not read is unknown, and
// never zero. When calls end it reads from the metrics API, as how many there are.
package cli
