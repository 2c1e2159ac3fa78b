// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

// Metrics count what the room readers and the webhook receiver do.
type Metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	sweptAt      *prometheus.GaugeVec
	rooms        *prometheus.GaugeVec
	unattributed *prometheus.GaugeVec
	unread       *prometheus.GaugeVec
	waiting      *prometheus.GaugeVec
	webhooks     *prometheus.CounterVec
	forwards     *prometheus.CounterVec
}

// NewMetrics registers the metrics of the room readers.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Name: "livekit_requests_total",
			Help: "Requests to LiveKit's RoomService, by project, method and outcome (ok, denied, too_many, error).",
		}, []string{"project", "method", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "callguard", Name: "livekit_request_duration_seconds",
			Help:    "How long LiveKit's RoomService took to answer, by method.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10),
		}, []string{"method"}),
		sweptAt: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "livekit_last_sweep_timestamp_seconds",
			Help: "Time as of which all readable rooms of a project are known; 0 before the first sweep.",
		}, []string{"project"}),
		rooms: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "livekit_agent_rooms",
			Help: "Rooms of a project with at least one agent in them.",
		}, []string{"project"}),
		unattributed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "unattributed_agents",
			Help: "Agents in the rooms of a project that name no pod. While there are any, pods whose only witness is rooms are unknown.",
		}, []string{"project"}),
		unread: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "livekit_unread_rooms",
			Help: "Rooms of a project that have changed and cannot be read, so it is unknown which pods have agents in them. They have the same effect as unattributed agents.",
		}, []string{"project"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "livekit_waiting_rooms",
			Help: "Rooms of a project with a caller and no agent that asked for an agent by name and got none. Absent while too little is known.",
		}, []string{"project"}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Name: "webhook_events_total",
			Help: "Webhook requests received, by outcome.",
		}, []string{"outcome"}),
		forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Name: "webhook_forwards_total",
			Help: "Webhook requests passed on to other replicas, by outcome (ok, error, dropped).",
		}, []string{"outcome"}),
	}
	reg.MustRegister(m.requests, m.duration, m.sweptAt, m.rooms, m.unattributed, m.unread, m.waiting, m.webhooks, m.forwards)
	return m
}

func (m *Metrics) asked(p call.Project, method string, took time.Duration, err error) {
	outcome := "ok"
	_, tooMany := errors.AsType[*livekit.TooMany](err)
	switch {
	case livekit.Denied(err):
		outcome = "denied"
	case tooMany:
		outcome = "too_many"
	case err != nil:
		outcome = "error"
	}
	m.requests.WithLabelValues(string(p), method, outcome).Inc()
	m.duration.WithLabelValues(method).Observe(took.Seconds())
}

func (m *Metrics) swept(p call.Project, at time.Time, rooms, unattributed, unread int, waiting *int) {
	seconds := 0.0
	if !at.IsZero() {
		seconds = float64(at.UnixMilli()) / 1000
	}
	m.sweptAt.WithLabelValues(string(p)).Set(seconds)
	m.rooms.WithLabelValues(string(p)).Set(float64(rooms))
	m.unattributed.WithLabelValues(string(p)).Set(float64(unattributed))
	m.unread.WithLabelValues(string(p)).Set(float64(unread))
	if waiting == nil {
		m.waiting.DeleteLabelValues(string(p))
	} else {
		m.waiting.WithLabelValues(string(p)).Set(float64(*waiting))
	}
}

// forget deletes the series of a project that is no longer read.
func (m *Metrics) forget(p call.Project) {
	labels := prometheus.Labels{"project": string(p)}
	for _, vec := range []*prometheus.GaugeVec{m.sweptAt, m.rooms, m.unattributed, m.unread, m.waiting} {
		vec.DeletePartialMatch(labels)
	}
	m.requests.DeletePartialMatch(labels)
}
