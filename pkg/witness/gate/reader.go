// SPDX-License-Identifier: Apache-2.0

// Package gate is the witness that asks a pod's call-gate: GET /calls of the
// sidecar, through which every job of the agent went.
//
// It does not order anything: a gate reads from its pod's annotation that it is
// to take no more calls.
package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/witness/poll"
)

// Reader asks the gate of every pod that names this witness. The Answer that its
// Ask returns says whether the pod is draining and drained; it is zero where the
// gate gave none, and never has the jobs.
type Reader struct{ *poll.Poller[Answer] }

// NewReader returns a Reader. Ask works at once, Reading needs Run. What a pod holds
// whose gate no worker has come to is unknown: its agent may go past the gate.
func NewReader(cfg poll.Config) *Reader { return newReader(cfg, Answer.reading) }

// NewLenientReader returns a Reader that takes such a gate for one without calls. It
// is for those who end none on that account.
func NewLenientReader(cfg poll.Config) *Reader {
	return newReader(cfg, func(a Answer, at time.Time) call.Reading {
		a.Known = a.Known || !a.Used
		return a.reading(at)
	})
}

func newReader(cfg poll.Config, reading func(Answer, time.Time) call.Reading) *Reader {
	return &Reader{poll.New(cfg, poll.Subject[Answer]{
		Witness: call.Gate, Name: "the gate",
		Requests: prometheus.CounterOpts{
			Namespace: "callguard", Name: "gate_requests_total",
			Help: "Requests to GET /calls of gates, by outcome (ok, error).",
		},
		Get: Get, Reading: reading,
	})}
}

// Get asks the gate of a pod, once. The answer never has the jobs.
func Get(ctx context.Context, client *http.Client, pod *call.Pod) (Answer, error) {
	if pod.IP == "" {
		return Answer{}, errors.New("the pod has no address yet")
	}
	url := "http://" + net.JoinHostPort(pod.IP, strconv.Itoa(pod.GatePort)) + Path
	return poll.Get(ctx, client, url, func(body []byte) (Answer, error) { return parse(body, pod.UID) })
}
