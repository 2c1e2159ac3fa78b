// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/labels"

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
			t := look.tally(s.pods)
			if t.tooLittleKnown(ActiveCalls) != nil {
				continue
			}
			workload := d.kind + "/" + s.name.Name
			out <- prometheus.MustNewConstMetric(c.calls(), prometheus.GaugeValue, float64(t.calls), s.name.Namespace, workload)
			out <- prometheus.MustNewConstMetric(c.busy(), prometheus.GaugeValue, float64(t.busy), s.name.Namespace, workload)
		}
	}
}
