// SPDX-License-Identifier: Apache-2.0

// Package trycall makes one call as a caller would, and tells step by step what
// became of it: whether LiveKit takes the key, an agent comes, its pod is named and
// counted, and all is back to what it was after the caller has hung up.
//
// It ends no other call and writes nothing to Kubernetes. It is told which pods there
// are and how many calls each holds, and knows nothing of metrics APIs. Its rooms have
// names of their own, by which call-gate leaves them out of its statistics.
package trycall
