// SPDX-License-Identifier: Apache-2.0

// Package gate is the witness that asks a pod's call-gate: GET /calls of the sidecar,
// through which every job of the agent passes.
//
// It gives no orders: a gate reads the order to drain from its pod's annotation.
package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/witness/poll"
)

// Reader asks the gate of every pod that names this witness. The Answer that its
// Ask returns says whether the pod is draining and drained; it is zero where the
// gate gave none, and never has the jobs.
type Reader struct {
	*poll.Poller[Answer]

	lives *lives // nil unless it learns
	loads *loads // the same
}

// NewReader returns a Reader. Ask works at once, Reading needs Run. What a pod holds
// whose gate no worker has come to is unknown: its agent may go past the gate.
func NewReader(cfg poll.Config) *Reader {
	return &Reader{Poller: poll.New(cfg, subject(Answer.reading))}
}

// NewLearner returns the same that also keeps the loads of pods, and learns how long the
// calls of pods last of which no other witness does. table is where those of a pod are learnt; it may return nil.
func NewLearner(cfg poll.Config, table func(*call.Pod) *lengths.Table) *Reader {
	l := &lives{table: table, gap: gaps * cfg.Interval, of: map[types.UID]*seen{}}
	s := subject(Answer.reading)
	w := &loads{stale: cfg.MaxStaleness, of: map[types.UID]load{}}
	s.Get = getLives
	s.Heard = func(pod *call.Pod, a Answer, at time.Time) { l.heard(pod, a, at); w.heard(pod, a, at) }
	s.Gone = func(pod types.UID) { l.gone(pod); w.gone(pod) }
	return &Reader{poll.New(cfg, s), l, w}
}

// NewLenientReader returns a Reader for which such a gate has no calls. Use it only where
// that number cannot end a call.
func NewLenientReader(cfg poll.Config) *Reader {
	return &Reader{Poller: poll.New(cfg, subject(func(a Answer, at time.Time) call.Reading {
		a.Known = a.Known || !a.Used
		return a.reading(at)
	}))}
}

func subject(reading func(Answer, time.Time) call.Reading) poll.Subject[Answer] {
	return poll.Subject[Answer]{
		Witness: call.Gate, Name: "the gate",
		Requests: prometheus.CounterOpts{
			Namespace: "callguard", Name: "gate_requests_total",
			Help: "Requests to GET /calls of gates, by outcome (ok, error).",
		},
		Get: Get, Reading: reading,
	}
}

// Get asks the gate of a pod, once. The answer never includes the jobs.
func Get(ctx context.Context, client *http.Client, pod *call.Pod) (Answer, error) {
	return get(ctx, client, pod, parse)
}

func get(ctx context.Context, client *http.Client, pod *call.Pod, parse func([]byte, types.UID) (Answer, error)) (Answer, error) {
	if pod.IP == "" {
		return Answer{}, errors.New("the pod has no address yet")
	}
	url := "http://" + net.JoinHostPort(pod.IP, strconv.Itoa(pod.GatePort)) + Path
	return poll.Get(ctx, client, url, func(body []byte) (Answer, error) { return parse(body, pod.UID) })
}
