// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mistake is something that is wrong with an autoscaler, and what would be right.
type mistake struct{ what, do string }

// hpaMistakes returns the mistakes in an autoscaler of guarded pods, whose workload has
// this metadata.
func hpaMistakes(hpa *autoscalingv2.HorizontalPodAutoscaler, of metav1.ObjectMeta) (list []mistake) {
	for _, m := range hpa.Spec.Metrics {
		var name string
		var target autoscalingv2.MetricTarget
		switch {
		case m.Object != nil:
			name, target = m.Object.Metric.Name, m.Object.Target
		case m.Pods != nil:
			name, target = m.Pods.Metric.Name, m.Pods.Target
		default:
			continue
		}
		switch {
		case misspelt(name):
			list = append(list, mistake{fmt.Sprintf("reads metric %q, which callguard does not serve", name), "name it " + activeCalls})
		case name == activeCalls && target.Type == autoscalingv2.ValueMetricType:
			list = append(list, mistake{"compares all calls of its workload with a Value, however many pods share them: it adds pods without end",
				`target: {type: AverageValue, averageValue: "5"}, the calls that each pod should hold`})
		}
	}
	if manager := appliesReplicas(of); manager != "" {
		list = append(list, mistake{fmt.Sprintf("shares replicas of its workload with %s, which sets them back whenever it applies, and has pods leave for that", manager),
			"leave spec.replicas out of what " + manager + " applies"})
	}
	return list
}

// misspelt reports whether a metric looks like one of callguard's and is none. Metrics that
// another adapter derives from callguard's series in Prometheus begin with their prefix.
func misspelt(name string) bool {
	served := []string{activeCalls, "busy_pods", "draining_pods", waitingCalls, untilIdle}
	plain := strings.ToLower(name)
	return !slices.Contains(served, name) && strings.Contains(plain, "call") && !strings.HasPrefix(plain, "callguard_")
}

// appliesReplicas returns who applies spec.replicas of a workload by server-side apply;
// empty if nobody does. Managers that only updated it do not matter, because they do not
// write it again.
func appliesReplicas(of metav1.ObjectMeta) string {
	for _, entry := range of.ManagedFields {
		if entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) == nil && fields.Spec["f:replicas"] != nil {
			return entry.Manager
		}
	}
	return ""
}
