// SPDX-License-Identifier: Apache-2.0

// Package cli implements the kubectl-calls commands list, why, plan, drain, status, end,
// doctor, try and version.
//
// It decides nothing: package guard explains why a pod stays, and what policies and budgets
// should be. Only two commands write: drain cordons nodes and evicts their pods as kubectl
// does, and end deletes a pod for a member of the break-glass group and writes an Event.
// What it cannot read is unknown, and never zero. The number of calls, and when they will
// end, it reads from the metrics API.
package cli
