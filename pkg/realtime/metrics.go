// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what the prober does.
type Metrics struct {
	errors   *prometheus.CounterVec
	duration prometheus.Histogram
}

// NewMetrics registers the metrics of the prober.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Subsystem: "realtime", Name: "probe_error_total",
			Help: "Probes of the Realtime API that failed, by class (DEGRADED, FATAL) and reason.",
		}, []string{"class", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "callguard", Subsystem: "realtime", Name: "probe_duration_seconds",
			Help:    "How long probes of the Realtime API took, failed ones included.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2, 4, 8, 16},
		}),
	}
	for _, r := range failures() { // so that even the first failure is an increase
		m.errors.WithLabelValues(string(r.Class()), string(r))
	}
	reg.MustRegister(m.errors, m.duration)
	return m
}

func (m *Metrics) probed(o Outcome, took time.Duration) {
	m.duration.Observe(took.Seconds())
	if o.Class() != OK {
		m.errors.WithLabelValues(string(o.Class()), string(o.Reason)).Inc()
	}
}

// collector exports the verdict at each scrape.
type collector struct {
	prober                             *Prober
	success, age, ready, held, another *prometheus.Desc
	unseen, shutdown                   *prometheus.Desc
}

func newCollector(p *Prober) *collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("callguard_realtime_"+name, help, nil, nil)
	}
	return &collector{
		prober:   p,
		success:  desc("probe_success", "1 if the latest probe opened a session, 0 if it failed; absent before the first."),
		age:      desc("probe_age_seconds", "How long ago the latest probe ended; absent before the first."),
		ready:    desc("ready", "1 while GET /healthz/realtime answers 200."),
		held:     desc("ready_held", "1 while it answers 200 only because the pod holds calls, or may hold some."),
		another:  desc("model_mismatch", "1 if the latest session had another model than the one asked for."),
		unseen:   desc("model_unseen", "1 if GET /models does not show the model to the key."),
		shutdown: desc("model_shutdown_timestamp_seconds", "When the model will be shut down; absent while nothing is announced."),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.success, c.age, c.ready, c.held, c.another, c.unseen, c.shutdown} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	r := c.prober.Report()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	truth := func(d *prometheus.Desc, b bool) {
		if b {
			gauge(d, 1)
		} else {
			gauge(d, 0)
		}
	}
	if !r.State.At.IsZero() {
		truth(c.success, r.State.Failures == 0)
		gauge(c.age, r.At.Sub(r.State.At).Seconds())
	}
	truth(c.ready, r.Verdict.Ready)
	truth(c.held, r.Verdict.Held)
	truth(c.another, r.Mismatch)
	truth(c.unseen, r.Unseen)
	if !r.Shutdown.IsZero() {
		gauge(c.shutdown, float64(r.Shutdown.Unix()))
	}
}
