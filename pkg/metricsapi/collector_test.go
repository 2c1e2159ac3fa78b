// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestCollector shows the calls of each workload, and nothing where too little is known.
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
	// b is unknown, and may hold a call; of db nothing is known.
	some := known{calls: map[string]int{"a": 1, "c": 2, "d": 4}}
	if err := testutil.CollectAndCompare(testProvider(some).Collector(), strings.NewReader(help+busy+`callguard_busy_pods{namespace="voice",workload="Deployment/web"} 4
`)); err != nil {
		t.Error(err)
	}
}

// TestDrainsLeft shows when pods that leave a node will be idle, and nothing of other nodes, or where nobody knows.
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
		t.Errorf("nobody knows how long calls last, and it says %s", got)
	}
	learn(t, p, "c", 100)
	p.lengths.Ages = aged(map[string][]time.Duration{"c": {9 * time.Minute, 9 * time.Minute}, "d": {5 * time.Minute, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute}})
	if got := left(p); got != "node-2 5 min" {
		t.Errorf("calls of ten minutes, of which some are five old, are over in: %q", got)
	}
}
