// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const waitingCalls = "waiting_calls"

// scaledObject is what doctor reads of KEDA's ScaledObject.
type scaledObject struct {
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		ScaleTargetRef  struct{ Kind, Name string }
		MinReplicaCount int // KEDA's default is 0, too
		Fallback        *struct {
			Replicas int
			Behavior string
		}
		Triggers []trigger
	}
}

// trigger is a trigger of a ScaledObject.
type trigger struct {
	Type, MetricType string
	Metadata         map[string]string
}

// target returns the kind and the name of the workload that is scaled.
func (o *scaledObject) target() (kind, name string) {
	return cmp.Or(o.Spec.ScaleTargetRef.Kind, "Deployment"), o.Spec.ScaleTargetRef.Name
}

// scaledObjects lists the ScaledObjects of a namespace, or of all; none where KEDA is not
// installed.
func (c *cluster) scaledObjects(ctx context.Context, namespace string) ([]scaledObject, error) {
	const version = "keda.sh/v1alpha1"
	// Whoever may not list them learns all the same that there are none.
	if _, err := c.client.Discovery().ServerResourcesForGroupVersion(version); apierrors.IsNotFound(err) {
		return nil, nil
	}
	path := "/apis/" + version + "/scaledobjects"
	if namespace != "" {
		path = "/apis/" + version + "/namespaces/" + namespace + "/scaledobjects"
	}
	var list struct{ Items []scaledObject }
	if err := c.get(ctx, path, &list); err != nil {
		return nil, fmt.Errorf("cannot list the ScaledObjects: %w", err)
	}
	return list.Items, nil
}

// checkScaledObjects looks for mistakes in the ScaledObjects of guarded workloads.
func (c *cluster) checkScaledObjects(ctx context.Context, namespace string, s scene) []finding {
	const check = "autoscalers"
	objects, err := c.scaledObjects(ctx, namespace)
	if err != nil {
		return []finding{{warn, check, unchecked(err), ""}}
	}
	var list []finding
	for _, o := range objects {
		kind, name := o.target()
		if !s.namespaces[o.Namespace] {
			continue
		}
		if guarded, _, err := c.makesGuarded(ctx, o.Namespace, kind, name); err != nil || !guarded {
			continue // not guarded; checkWorkloads reports workloads that cannot be read
		}
		for _, m := range scaledObjectMistakes(&o, c.callguard) {
			list = append(list, finding{warn, check, fmt.Sprintf("ScaledObject %s/%s ", o.Namespace, o.Name) + m.what, m.do})
		}
	}
	return list
}

// scaledObjectMistakes returns the mistakes in a ScaledObject of a guarded workload. Its
// triggers of other scalers are not judged.
func scaledObjectMistakes(o *scaledObject, callguard string) (list []mistake) {
	ours := slices.DeleteFunc(slices.Clone(o.Spec.Triggers), func(t trigger) bool { return !t.asksCallguard(callguard) })
	kind, name := o.target()
	if o.Spec.MinReplicaCount == 0 && len(ours) == 0 {
		list = append(list, mistake{fmt.Sprintf("may scale %s %s to zero, and none of its triggers asks callguard: then no agent answers, and no call brings one back", kind, name),
			"minReplicaCount: 1, or more; or a trigger of callguard's external scaler"})
	}
	if f := o.Spec.Fallback; f != nil && f.Replicas == 0 && len(ours) > 0 && f.Behavior != "currentReplicas" && f.Behavior != "currentReplicasIfHigher" {
		list = append(list, mistake{"has fallback.replicas: 0: while calls are not known it scales to zero in the middle of them", "fallback: {failureThreshold: 3, replicas: 2, behavior: currentReplicasIfHigher}"})
	}
	types := map[string]string{activeCalls: "AverageValue", waitingCalls: "Value"}
	for _, t := range ours {
		metric := t.Metadata["metric"]
		right, served := types[metric]
		switch given := cmp.Or(t.MetricType, "AverageValue"); {
		case !served:
			list = append(list, mistake{fmt.Sprintf("asks callguard for metric %q, which its external scaler does not serve", metric), "metric: active_calls or waiting_calls"})
		case given != right:
			list = append(list, mistake{fmt.Sprintf("compares %s by metricType %s", metric, given), "metricType: " + right})
		}
	}
	return list
}

// asksCallguard reports whether a trigger asks callguard's external scaler, whose Service is
// in this namespace.
func (t trigger) asksCallguard(namespace string) bool {
	host, _, _ := strings.Cut(t.Metadata["scalerAddress"], ":")
	return strings.HasPrefix(t.Type, "external") && strings.HasPrefix(host+".", "metrics-adapter."+namespace+".")
}
