// SPDX-License-Identifier: Apache-2.0

// Package livekit asks a LiveKit project which rooms there are and who is in them.
// The adapter, the guard and the gate share it: one reading of URLs and keys, one
// bound on answers, one pace, and one way to say what went wrong.
//
// It is given a project's URL and key and reads no Secret. It knows LiveKit's
// RoomService alone, keeps nothing of what it was told, and decides nothing. No error
// of it holds the name of a room, which may be a caller's number, anything of a
// participant, or a word of an answer that it could not use.
package livekit
