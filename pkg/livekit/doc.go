// SPDX-License-Identifier: Apache-2.0

// Package livekit asks a LiveKit project which rooms exist and who is in them. The adapter,
// the guard and the gate share it, and with it the same handling of URLs, keys, limits,
// pace and errors.
//
// It is given a project's URL and key and reads no Secret. It uses LiveKit's RoomService
// and AgentDispatchService, keeps no answer, and decides nothing. Its errors never contain
// the name of a room, which may be a caller's number, anything about a participant, or text
// of an answer that it could not use.
package livekit
