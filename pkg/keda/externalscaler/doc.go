// SPDX-License-Identifier: Apache-2.0

// Package externalscaler is the protocol between KEDA and its external scalers, generated from externalscaler.proto.
//
// It knows no metric and decides nothing.
package externalscaler
