// SPDX-License-Identifier: Apache-2.0

package keda

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
	"github.com/callguard/callguard/pkg/metricsapi"
)

// Keys of a trigger's metadata. KEDA sends its own along, such as scalerAddress.
const (
	deploymentKey  = "deployment"
	statefulSetKey = "statefulSet"
	metricKey      = "metric"
	targetKey      = "target"
)

// trigger is what the metadata of a ScaledObject's trigger says.
type trigger struct {
	workload types.NamespacedName
	resource schema.GroupResource
	metric   string
	target   float64
}

// read reads a trigger, and reports every mistake in it at once. The namespace is the ScaledObject's, so nobody scales on
// the calls of another.
func read(ref *externalscaler.ScaledObjectRef) (trigger, error) {
	metadata := ref.GetScalerMetadata()
	t := trigger{
		workload: types.NamespacedName{Namespace: ref.GetNamespace(), Name: metadata[deploymentKey]},
		resource: schema.GroupResource{Group: "apps", Resource: "deployments"},
		metric:   metadata[metricKey],
	}
	var mistakes []error
	other := metadata[statefulSetKey]
	switch {
	case t.workload.Name == "" && other == "":
		mistakes = append(mistakes, errors.New(`neither deployment nor statefulSet is set; name the workload that is scaled, such as deployment: agent`))
	case t.workload.Name != "" && other != "":
		mistakes = append(mistakes, fmt.Errorf("deployment is %q and statefulSet is %q; name one of them", t.workload.Name, other))
	case other != "":
		t.workload.Name, t.resource.Resource = other, "statefulsets"
	}
	if t.metric != metricsapi.ActiveCalls && t.metric != metricsapi.WaitingCalls {
		mistakes = append(mistakes, fmt.Errorf("metric is %q; use %s or %s", t.metric, metricsapi.ActiveCalls, metricsapi.WaitingCalls))
	}
	var ok bool
	if t.target, ok = parseTarget(metadata[targetKey]); !ok {
		mistakes = append(mistakes, fmt.Errorf(`target is %.200q; use a number above 0 without an exponent, such as "5" calls a pod`, metadata[targetKey]))
	}
	if len(mistakes) > 0 {
		return trigger{}, fmt.Errorf("metadata of a trigger of ScaledObject %s/%s: %w", ref.GetNamespace(), ref.GetName(), errors.Join(mistakes...))
	}
	return t, nil
}

const (
	// mostCalls is a target that nobody means.
	mostCalls = 1e6
	// longestTarget is the most bytes of a target.
	longestTarget = 32
)

// parseTarget reads a target. One with an exponent is refused: Kubernetes' library works out all digits of 1e999999999, which
// takes minutes and gigabytes.
func parseTarget(text string) (target float64, ok bool) {
	if len(text) > longestTarget || strings.ContainsAny(text, "eE") {
		return 0, false
	}
	q, err := resource.ParseQuantity(text)
	target = q.AsApproximateFloat64()
	return target, err == nil && q.MilliValue() >= 1 && target <= mostCalls
}
