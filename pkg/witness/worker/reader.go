// SPDX-License-Identifier: Apache-2.0

// Package worker is the witness that asks an agent itself: GET /worker on the
// HTTP server that LiveKit Agents runs in every pod.
//
// The agent counts a job from before it joins its room until its process ends, so this
// witness counts a call earlier and longer than the rooms do. The package sends no signal
// or order.
package worker

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/witness/poll"
)

// pokeAgain is after which time a poked pod is asked a second time: a job's process ends
// shortly after its agent has left the room.
const pokeAgain = 500 * time.Millisecond

// Reader asks every pod that names this witness for the number of its active jobs.
type Reader struct{ *poll.Poller[int] }

// NewReader returns a Reader. Ask works at once, Reading needs Run.
func NewReader(cfg poll.Config) *Reader {
	return &Reader{poll.New(cfg, poll.Subject[int]{
		Witness: call.Worker, Name: "the agent",
		Requests: prometheus.CounterOpts{
			Namespace: "callguard", Name: "worker_requests_total",
			Help: "Requests to GET /worker of agents, by outcome (ok, error).",
		},
		PokeAgain: pokeAgain,
		Get: func(ctx context.Context, client *http.Client, pod *call.Pod) (int, error) {
			return Get(ctx, client, "http://"+net.JoinHostPort(pod.IP, strconv.Itoa(pod.WorkerPort))+"/worker")
		},
		Reading: call.Known,
	})}
}

// Ask asks a pod now. After any failure the reading is unknown.
func (r *Reader) Ask(ctx context.Context, pod *call.Pod) call.Reading {
	if !pod.Running || pod.IP == "" {
		return call.Unknown("the agent has no address yet")
	}
	reading, _ := r.Poller.Ask(ctx, pod)
	return reading
}

// Get asks one agent for the number of its active jobs.
func Get(ctx context.Context, client *http.Client, url string) (int, error) {
	return poll.Get(ctx, client, url, parse)
}
