// SPDX-License-Identifier: Apache-2.0

// Package realtime reports whether OpenAI's Realtime API takes sessions with a pod's
// key and model, so that a readiness probe can ask.
//
// One loop opens a session now and then and closes it again. What counts is the
// event session.created: a key that was revoked still gets its TCP connection,
// its TLS handshake and its 101. The answer of GET /healthz/realtime is made from
// what the loop found last and from whether the pod holds calls; a request dials
// nobody.
//
// It sends no event, so it costs no token. For the same reason it cannot see what
// shows only when a response is asked for: an account without quota, and a model
// that the key may not use, can still open a session. It does not keep calls from
// a pod either: LiveKit's agents are dispatched over a websocket of their own, and
// readiness does not enter there.
//
//	outcome  what a refusal, a close or a first event means; pure
//	verdict  outcomes and calls → ready or not, and why; pure
//	pace     when to probe again; pure
//	target   where sessions are asked for and as whom: OpenAI, Azure OpenAI, a gateway
//	attempt  one probe: the websocket, bounded in time and size
//	key      the key's file, and keeping the key out of every text
//	about    what GET /models says of the model: when it will be shut down
//	prober   the loop
//	status   GET /healthz/realtime, /healthz, /livez, /metrics
package realtime
