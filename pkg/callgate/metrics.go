// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the labels.
const (
	offerPassed  = "passed"
	offerRefused = "refused"

	answerAccepted  = "accepted"
	answerDeclined  = "declined"
	answerOverruled = "overruled"

	endByWorker = "worker" // the worker reported it
	endByNumber = "number" // the agent has fewer jobs
	endByRoom   = "room"   // the room is closed, and no process had the job
	endByTime   = "time"   // the job was given up
)

// Metrics count what the gate does.
type Metrics struct {
	offers, answers, ends *prometheus.CounterVec
	jobs                  prometheus.Counter
	duration              prometheus.Histogram
	connections           *prometheus.CounterVec
	unread                prometheus.Counter
}

// NewMetrics registers the metrics of the gate.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "callguard", Subsystem: "gate", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		offers:  counter("offers_total", "Job offers of LiveKit, by what became of them (passed, refused: the pod was draining).", "fate"),
		answers: counter("answers_total", "Answers of the agent to offers (accepted, declined, overruled: it accepted and the pod was draining).", "answer"),
		ends:    counter("job_ends_total", "Jobs that ended, by who said so (worker, number: of the agent's jobs, room: it closed before a process had the job, time: it was given up).", "by"),
		jobs: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "callguard", Subsystem: "gate", Name: "jobs_total", Help: "Jobs that LiveKit assigned.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "callguard", Subsystem: "gate", Name: "job_duration_seconds", Help: "How long jobs ran, from assignment to end, but for calls of kubectl calls try.",
			Buckets: []float64{10, 30, 60, 120, 300, 600, 1200, 3600, 7200},
		}),
		connections: counter("connections_total", "Worker websockets, by outcome (open, refused: LiveKit's answer, unreachable: no answer; held: kept and closed because of that).", "outcome"),
		unread: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "callguard", Subsystem: "gate", Name: "unread_frames_total", Help: "Frames that were passed on without being understood.",
		}),
	}
	reg.MustRegister(m.offers, m.answers, m.ends, m.jobs, m.duration, m.connections, m.unread)
	return m
}

// collector exports the book at each scrape.
type collector struct {
	book                *book
	calls, up, draining *prometheus.Desc
}

func newCollector(b *book) *collector {
	return &collector{
		book:     b,
		calls:    prometheus.NewDesc("callguard_gate_calls", "Calls of the pod, by phase (accepted, running, ending, unlisted).", []string{"phase"}, nil),
		up:       prometheus.NewDesc("callguard_gate_workers", "Workers of the pod that have a websocket and have sent their registration.", nil, nil),
		draining: prometheus.NewDesc("callguard_gate_draining", "1 while the pod takes no more calls.", nil, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.calls
	ch <- c.up
	ch <- c.draining
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	a := c.book.answer(time.Now())
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(c.calls, a.Accepted, string(accepted))
	gauge(c.calls, a.Running, "running")
	gauge(c.calls, a.Ending, "ending")
	gauge(c.calls, a.Unlisted, "unlisted")
	gauge(c.up, a.Workers)
	draining := 0
	if a.Draining != "" {
		draining = 1
	}
	gauge(c.draining, draining)
}
