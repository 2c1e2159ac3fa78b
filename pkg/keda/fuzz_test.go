// SPDX-License-Identifier: Apache-2.0

package keda

import (
	"testing"
	"time"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
	"github.com/callguard/callguard/pkg/metricsapi"
)

// FuzzRead: whatever a trigger says, it is read at once; what is accepted names one workload and a target that can be
// divided by.
func FuzzRead(f *testing.F) {
	f.Add("agent", "", metricsapi.ActiveCalls, "5")
	f.Add("", "agent", metricsapi.WaitingCalls, "500m")
	f.Add("a", "", metricsapi.ActiveCalls, "1e999999999")
	f.Add("a", "", metricsapi.ActiveCalls, "1000000000000000000000E-999999999")
	f.Add("a", "b", "busy_pods", "1Ei")
	f.Fuzz(func(t *testing.T, deployment, statefulSet, metric, target string) {
		began := time.Now()
		got, err := read(&externalscaler.ScaledObjectRef{Name: "so", Namespace: "voice", ScalerMetadata: map[string]string{
			deploymentKey: deployment, statefulSetKey: statefulSet, metricKey: metric, targetKey: target,
		}})
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s to read target %q", took, target)
		}
		switch {
		case err != nil && got != (trigger{}):
			t.Errorf("beside error %v it reads %+v", err, got)
		case err == nil && (got.workload.Name == "" || deployment != "" && statefulSet != "" || got.metric != metric || got.target <= 0 || got.target > mostCalls):
			t.Errorf("deployment %q, statefulSet %q, metric %q, target %q: read as %+v", deployment, statefulSet, metric, target, got)
		}
	})
}
