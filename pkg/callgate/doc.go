// SPDX-License-Identifier: Apache-2.0

// Package callgate is the sidecar between an agent and LiveKit: the agent's
// LIVEKIT_URL leads here, and every job offer goes by.
//
// The gate passes everything on as it is, but for four kinds of frame on the
// websocket of a worker: an accepted offer is stamped with the pod's UID, an
// assignment without a URL gets LiveKit's own, so that signalling and media go
// past the gate, and while the pod is draining an offer is answered "not
// available" and the worker is reported full. It counts the jobs as they go.
//
// It ends no job, and drops no frame that it does not understand. It is no
// security boundary: who reaches it still needs a token that LiveKit accepts.
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
