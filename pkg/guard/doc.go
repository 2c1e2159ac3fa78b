// SPDX-License-Identifier: Apache-2.0

// Package guard carries out what package verdict decides: it keeps the
// PodDisruptionBudget of each enabled namespace, and moves guarded pods that
// should leave through their steps, one way: set aside, draining, released, deleted.
//
// It is the only package that writes pods and budgets. It asks witnesses only
// about pods that should leave, writes nothing while there are none, and signals no
// agent. The admission policies that lock the pods are not its own: it asks
// package admission whether they are in effect, and releases no pod while they are not.
package guard
