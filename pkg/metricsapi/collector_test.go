// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"strings"
	"testing"

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
