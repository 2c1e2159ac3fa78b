// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/pods"
)

// TestCollector shows the calls of each workload, and nothing if too little is known.
func TestCollector(t *testing.T) {
	const help = `
# HELP callguard_active_calls Calls that the guarded pods of a Deployment or StatefulSet hold, as active_calls of the metrics API. Absent while too little is known.
# TYPE callguard_active_calls gauge
callguard_active_calls{namespace="voice",workload="Deployment/empty"} 0
callguard_active_calls{namespace="voice",workload="Deployment/web"} 7
`
	const busy = `
# HELP callguard_busy_pods Guarded pods of a Deployment or StatefulSet that hold a call, or may, as busy_pods of the metrics API. Absent while too little is known.
# TYPE callguard_busy_pods gauge
callguard_busy_pods{namespace="voice",workload="Deployment/empty"} 0
`
	all := help + `callguard_active_calls{namespace="voice",workload="StatefulSet/db"} 8
` + busy + `callguard_busy_pods{namespace="voice",workload="Deployment/web"} 3
callguard_busy_pods{namespace="voice",workload="StatefulSet/db"} 1
`
	if err := testutil.CollectAndCompare(testProvider(allKnown()).Collector(), strings.NewReader(all)); err != nil {
		t.Error(err)
	}
	// b is unknown, and may hold a call; nothing is known about db.
	some := known{calls: map[string]int{"a": 1, "c": 2, "d": 4}}
	if err := testutil.CollectAndCompare(testProvider(some).Collector(), strings.NewReader(help+busy+`callguard_busy_pods{namespace="voice",workload="Deployment/web"} 4
`)); err != nil {
		t.Error(err)
	}
}

// TestDrainsLeft shows when pods that leave a node will be idle, and nothing for other nodes, or if it is unknown.
func TestDrainsLeft(t *testing.T) {
	const name = "callguard_drain_seconds_left"
	left := func(p *Provider) string {
		t.Helper()
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(p.Collector())
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == name {
					said = append(said, fmt.Sprintf("%s %.0f min", m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()/60))
				}
			}
		}
		return strings.Join(said, ", ")
	}
	p := testProvider(allKnown())
	if got := left(p); got != "" {
		t.Errorf("lengths of calls are unknown, but the metric is %s", got)
	}
	learn(t, p, "c", 100)
	p.lengths.Ages = aged(map[string][]time.Duration{"c": {9 * time.Minute, 9 * time.Minute}, "d": {5 * time.Minute, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute}})
	if got := left(p); got != "node-2 5 min" {
		t.Errorf("calls of ten minutes, of which some are five old, are over in: %q", got)
	}
}

// exported are the series of a metric, each with its labels and value.
func exported(t *testing.T, p *Provider, name string) (series []string) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(p.Collector())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			text := ""
			for _, l := range m.GetLabel() {
				text += l.GetValue() + " "
			}
			series = append(series, fmt.Sprintf("%s%.3g", text, m.GetGauge().GetValue()))
		}
	}
	return series
}

// TestLoads shows the mean load of each workload: of pods that serve, as far as it is known.
func TestLoads(t *testing.T) {
	p := testProvider(allKnown())
	if got := exported(t, p, "callguard_worker_load"); got != nil {
		t.Errorf("nobody knows a load, and it says %q", got)
	}
	loads := map[string]float64{"a": 0.25, "b": 0, "c": 1, "d": 1} // c is draining, d is aside
	p.Load = func(pod *call.Pod, _ time.Time) (float64, bool) { load, known := loads[pod.Name]; return load, known }
	if diff := cmp.Diff([]string{"voice Deployment/web 0.125"}, exported(t, p, "callguard_worker_load")); diff != "" {
		t.Errorf("loads: -want, +got:\n%s", diff)
	}
	delete(loads, "b")
	if diff := cmp.Diff([]string{"voice Deployment/web 0.25"}, exported(t, p, "callguard_worker_load")); diff != "" {
		t.Errorf("an unknown load is not zero: -want, +got:\n%s", diff)
	}
}

// TestLengthsOfWorkloads shows how long calls last of workloads of which enough have ended, and that are still there.
func TestLengthsOfWorkloads(t *testing.T) {
	const name = "callguard_call_length_seconds"
	p := testProvider(allKnown())
	learn(t, p, "c", lengths.Enough-1)
	if got := exported(t, p, name); got != nil {
		t.Errorf("too few calls have ended, and it says %q", got)
	}
	learn(t, p, "c", 100)
	got := exported(t, p, name)
	if len(got) != 3 {
		t.Fatalf("want three quantiles of Deployment web, got %q", got)
	}
	for i, quantile := range []string{"0.5", "0.9", "0.99"} {
		var seconds float64
		if _, err := fmt.Sscanf(got[i], "voice "+quantile+" Deployment/web %g", &seconds); err != nil || seconds < 500 || seconds > 800 {
			t.Errorf("calls of ten minutes, and it says %q", got[i])
		}
	}
	p.store.DeleteObject(pods.Deployment, types.NamespacedName{Namespace: "voice", Name: "web"}, "Deploymentweb")
	if got := exported(t, p, name); got != nil {
		t.Errorf("the Deployment is gone, and it says %q", got)
	}
}
