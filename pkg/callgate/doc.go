// SPDX-License-Identifier: Apache-2.0

// Package callgate is the sidecar between an agent and LiveKit: the agent's LIVEKIT_URL
// leads here, and every job offer passes through it.
//
// The gate passes everything on unchanged, except four kinds of frames on the websocket of
// a worker. An accepted offer is stamped with the pod's UID. An assignment without a URL
// gets LiveKit's own, so that signalling and media bypass the gate. While the pod is
// draining, an offer is answered "not available", and the worker is reported as full. It
// counts the jobs that pass.
//
// It ends no job, and drops no frame that it does not understand. It is not a security
// boundary: its clients still need a token that LiveKit accepts.
//
//	book     the jobs, and whether new ones are let in; pure, but for its lock
//	frames   how a frame is read and changed
//	filter   what is passed on of a frame, and what the book is told; pure
//	session  one worker's two websockets
//	gate     the address that the agent talks to
//	order    the pod's annotation, in a file
//	ends     how the end of a job is noticed
//	journal  what a gate that is started again needs to know
//	status   GET /calls
package callgate
