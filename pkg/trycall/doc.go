// SPDX-License-Identifier: Apache-2.0

// Package trycall makes one call as a caller would, and reports each step: whether LiveKit
// accepts the key, an agent comes, its pod is named, the call is counted, and everything is
// as before after the caller has hung up.
//
// It ends no other call and writes nothing to Kubernetes. It is given the pods and the
// number of calls of each, and does not know the metrics API. Its rooms have a name prefix
// by which call-gate leaves them out of its statistics.
package trycall
