// SPDX-License-Identifier: Apache-2.0

// Package soak plays one long schedule of calls, disruptions and faults on the stage of test/lab, and accounts for every
// call from its caller's side.
//
// A schedule comes from a seed and a duration alone, so that it can be played again. The package draws it, accounts for
// what happened and writes the report, all without a cluster. The player, which needs one, is a test with the build tag
// soak: see docs/soak.md.
package soak
