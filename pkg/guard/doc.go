// SPDX-License-Identifier: Apache-2.0

// Package guard carries out what package verdict decides: it keeps the
// PodDisruptionBudget of each enabled namespace, and leads guarded pods that
// should go along their one-way road: set aside, draining, released, deleted.
//
// It is the only package that writes pods and budgets. It reads witnesses only of
// pods that something wants to go, writes nothing while nobody does, and signals
// no agent. The admission policies that lock the pods are not its own: it asks
// package admission whether they are in force, and lets nothing go while they are not.
package guard
