// SPDX-License-Identifier: Apache-2.0

package delegate

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome is how a request that is not callguard's ended.
type outcome string

const (
	answered outcome = "answered" // with a metric
	denied   outcome = "denied"   // with an error from the other adapter
	failed   outcome = "failed"   // without a usable answer
	refused  outcome = "refused"  // before it was sent
	gone     outcome = "gone"     // the client did not wait
)

type metrics struct {
	up       prometheus.Gauge
	requests *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "callguard", Name: "other_adapter_up",
			Help: "1 while the adapter to which metrics that are not callguard's are passed on answers, else 0. There is none without such an adapter.",
		}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "callguard", Name: "other_adapter_request_duration_seconds",
			Help:    "Time of requests that were for the other adapter, by how they ended: answered, denied (its own error), failed, refused (not sent, for it does not answer or has too many), gone (who asked did not wait).",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"outcome"}),
	}
	for _, o := range []outcome{answered, denied, failed, refused, gone} {
		m.requests.WithLabelValues(string(o))
	}
	registry.MustRegister(m.up, m.requests)
	return m
}

func (m *metrics) set(up bool) {
	value := 0.0
	if up {
		value = 1
	}
	m.up.Set(value)
}

func (m *metrics) count(o outcome, took time.Duration) {
	m.requests.WithLabelValues(string(o)).Observe(took.Seconds())
}
