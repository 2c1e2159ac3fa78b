// SPDX-License-Identifier: Apache-2.0

// Package realtime finds out, for a readiness probe, whether OpenAI's Realtime API accepts
// sessions with a pod's key and model.
//
// A loop opens a session from time to time and closes it again. Success is the event
// session.created: a revoked key still gets a TCP connection, a TLS handshake and a 101.
// The answer of GET /healthz/realtime depends on the loop's latest result and on whether
// the pod holds calls; a request opens no connection.
//
// It sends no event, so it uses no tokens. For the same reason it cannot see what only
// shows when a response is requested: an account without quota, or with a model that the
// key may not use, can still open a session. It does not keep calls from a pod either:
// LiveKit sends jobs to agents over their own websocket, whatever the pod's readiness.
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
