// SPDX-License-Identifier: Apache-2.0

// Package soak draws one long schedule of calls, disruptions and faults.
//
// A schedule comes from a seed and a duration alone, so that it can be played again. The package plays nothing.
package soak
