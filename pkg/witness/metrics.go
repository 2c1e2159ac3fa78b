// SPDX-License-Identifier: Apache-2.0

package witness

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
)

// Collector exports what the ledger knows about the guarded pods, at each scrape.
type Collector struct {
	ledger *Ledger
	pods   func() []*call.Pod
	now    func() time.Time

	pod, reading, age, disbelieved *prometheus.Desc
}

// NewCollector returns a Collector for the given pods.
func NewCollector(l *Ledger, pods func() []*call.Pod, now func() time.Time) *Collector {
	return &Collector{
		ledger: l, pods: pods, now: now,
		pod: prometheus.NewDesc("callguard_pods",
			"Guarded pods, by what is known of their calls (busy, idle, unknown).", []string{"known"}, nil),
		reading: prometheus.NewDesc("callguard_readings",
			"Latest readings of running guarded pods, by witness and outcome (known, unknown).", []string{"witness", "outcome"}, nil),
		age: prometheus.NewDesc("callguard_reading_oldest_age_seconds",
			"Age of the oldest known reading of a running guarded pod, by witness.", []string{"witness"}, nil),
		disbelieved: prometheus.NewDesc("callguard_disbelieved_calls",
			"Calls in LiveKit's list that the pod's agent or call-gate has not known for 5 minutes. They do not count; the log names their rooms.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.pod
	ch <- c.reading
	ch <- c.age
	ch <- c.disbelieved
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	now := c.now()
	pods := map[string]int{"busy": 0, "idle": 0, "unknown": 0}
	type count struct {
		known, unknown int
		oldest         time.Duration
	}
	witnesses := map[call.Witness]*count{}
	for _, w := range call.Witnesses() {
		witnesses[w] = &count{}
	}
	disbelieved := 0
	for _, pod := range c.pods() {
		reading, not := c.ledger.weigh(pod, now)
		disbelieved += not
		calls, known := reading.Calls()
		switch {
		case !known:
			pods["unknown"]++
		case calls > 0:
			pods["busy"]++
		default:
			pods["idle"]++
		}
		if !pod.Running {
			continue
		}
		for _, w := range pod.Witnesses {
			r := c.ledger.Ask(w, pod, now)
			if !r.Known() {
				witnesses[w].unknown++
				continue
			}
			witnesses[w].known++
			witnesses[w].oldest = max(witnesses[w].oldest, now.Sub(r.At()))
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.disbelieved, float64(disbelieved))
	for known, n := range pods {
		gauge(c.pod, float64(n), known)
	}
	for w, n := range witnesses {
		gauge(c.reading, float64(n.known), string(w), "known")
		gauge(c.reading, float64(n.unknown), string(w), "unknown")
		gauge(c.age, n.oldest.Seconds(), string(w))
	}
}
