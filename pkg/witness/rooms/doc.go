// SPDX-License-Identifier: Apache-2.0

// Package rooms is the witness that reads LiveKit's room state: which pod's
// agents are in which rooms.
//
// One Reader reads one LiveKit project. It sweeps all rooms (ListRooms, then
// ListParticipants of each; LiveKit has no bulk call). Webhooks only name rooms to be read
// at once. What it has seen is in a book; what LiveKit could not or did not say is unknown
// there, never zero.
//
// The package decides nothing about pods. It knows them only by the UIDs that agents carry
// in an attribute. Its only write is a dispatch that somebody asks it for.
package rooms
