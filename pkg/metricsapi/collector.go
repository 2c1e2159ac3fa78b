// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/pods"
)

// Collector exports to Prometheus what the metrics API answers for workloads.
func (p *Provider) Collector() prometheus.Collector { return collector{p} }

type collector struct{ *Provider }

func (collector) calls() *prometheus.Desc {
	return prometheus.NewDesc("callguard_active_calls",
		"Calls that the guarded pods of a Deployment or StatefulSet hold, as active_calls of the metrics API. Absent while too little is known.",
		[]string{"namespace", "workload"}, nil)
}

func (collector) busy() *prometheus.Desc {
	return prometheus.NewDesc("callguard_busy_pods",
		"Guarded pods of a Deployment or StatefulSet that hold a call, or may, as busy_pods of the metrics API. Absent while too little is known.",
		[]string{"namespace", "workload"}, nil)
}

func (collector) waits() *prometheus.Desc {
	return prometheus.NewDesc("callguard_waiting_calls",
		"Calls that wait for an agent of a Deployment or StatefulSet, as waiting_calls of the metrics API. A call that several could take counts for each. Absent while too little is known.",
		[]string{"namespace", "workload"}, nil)
}

func (collector) load() *prometheus.Desc {
	return prometheus.NewDesc("callguard_worker_load",
		"Mean load that the workers of a Deployment or StatefulSet report to LiveKit, from 0 to 1 (full), as call-gate sees it. Only of pods that are neither aside nor leaving; absent while no load of them is known.",
		[]string{"namespace", "workload"}, nil)
}

func (collector) lasts() *prometheus.Desc {
	return prometheus.NewDesc("callguard_call_length_seconds",
		"How long calls of a Deployment or StatefulSet last: a share of them, given by the quantile, ends within this time. Absent until 20 calls were seen to end since metrics-adapter started.",
		[]string{"namespace", "workload", QuantileLabel}, nil)
}

func (collector) left() *prometheus.Desc {
	return prometheus.NewDesc("callguard_drain_seconds_left",
		"In how many seconds the calls of those pods of a node are over that are aside or draining, in half of such cases, as seconds_until_idle of the metrics API. Absent while that is not known.",
		[]string{"node"}, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.calls()
	out <- c.busy()
	out <- c.waits()
	out <- c.left()
	out <- c.load()
	out <- c.lasts()
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	look := c.look(nil)
	f := c.foreteller()
	for _, d := range described() {
		if d.kind == pods.Node {
			for _, s := range c.subjects(d, "", labels.Everything()) {
				if seconds, known := f.left(s.pods); known {
					out <- prometheus.MustNewConstMetric(c.left(), prometheus.GaugeValue, seconds, s.name.Name)
				}
			}
		}
		if d.kind != pods.Deployment && d.kind != pods.StatefulSet {
			continue
		}
		for name, q := range c.queues(d.kind) {
			if q.calls > 0 || q.unknown == nil {
				out <- prometheus.MustNewConstMetric(c.waits(), prometheus.GaugeValue, float64(q.calls), name.Namespace, d.kind+"/"+name.Name)
			}
		}
		for _, s := range c.subjects(d, "", labels.Everything()) {
			workload := d.kind + "/" + s.name.Name
			if load, known := c.meanLoad(s.pods, f.now); known {
				out <- prometheus.MustNewConstMetric(c.load(), prometheus.GaugeValue, load, s.name.Namespace, workload)
			}
			if curve, known := c.lengths.known(d.kind, s.name); known {
				for label, chance := range quantiles() {
					length := lengths.Over([]lengths.Call{{Like: curve}}, chance)
					out <- prometheus.MustNewConstMetric(c.lasts(), prometheus.GaugeValue, length.Seconds(), s.name.Namespace, workload, label)
				}
			}
			t := look.tally(s.pods)
			if t.tooLittleKnown(ActiveCalls) != nil {
				continue
			}
			out <- prometheus.MustNewConstMetric(c.calls(), prometheus.GaugeValue, float64(t.calls), s.name.Namespace, workload)
			out <- prometheus.MustNewConstMetric(c.busy(), prometheus.GaugeValue, float64(t.busy), s.name.Namespace, workload)
		}
	}
}

// quantiles are those of the lengths of calls, by label.
func quantiles() map[string]float64 { return map[string]float64{"0.5": 0.5, "0.9": 0.9, "0.99": 0.99} }

// nobodySays is the Load of a Provider that has none.
func nobodySays(*call.Pod, time.Time) (float64, bool) { return 0, false }

// meanLoad returns the mean load of those pods that may be sent calls, as far as it is known.
func (p *Provider) meanLoad(members []*call.Pod, now time.Time) (mean float64, known bool) {
	sum, n := 0.0, 0
	for _, pod := range members {
		if pod.State != call.Serving {
			continue
		}
		if load, known := p.Load(pod, now); known {
			sum += load
			n++
		}
	}
	return sum / float64(max(1, n)), n > 0
}
