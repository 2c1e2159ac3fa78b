// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
)

// TestTrimOfTheLarge: anyone who may write in some namespace can create objects and Events as large as the API server accepts. No
// more is kept of them than of others.
func TestTrimOfTheLarge(t *testing.T) {
	many := map[string]string{}
	for i := range 10_000 {
		many[fmt.Sprintf("label-%d", i)] = strings.Repeat("x", 60)
	}
	guarded := maps.Clone(many)
	guarded[call.GuardedLabel] = "true"
	meta := metav1.ObjectMeta{Name: "large", Labels: many, Annotations: map[string]string{"note": strings.Repeat("x", 200<<10)}}
	template, selector := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: guarded, Annotations: meta.Annotations}}, &metav1.LabelSelector{MatchLabels: many}
	for name, obj := range map[string]any{
		"Event":       &corev1.Event{ObjectMeta: meta, Message: strings.Repeat("x", 1<<20), Reason: "FailedDelete"},
		"Deployment":  &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}},
		"ReplicaSet":  &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}},
		"StatefulSet": &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
		"DaemonSet":   &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
		"Namespace":   &corev1.Namespace{ObjectMeta: meta},
	} {
		trimmed, err := trim(obj)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(trimmed)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > 1<<10 {
			t.Errorf("of a large %s %d bytes are kept; want 1 KiB at most", name, len(raw))
		}
	}
}

// TestTrimKeepsAnnotations: the annotations of a pod and its workload are kept.
func TestTrimKeepsAnnotations(t *testing.T) {
	for _, a := range call.Annotations() {
		var obj metav1.Object
		meta := metav1.ObjectMeta{Labels: map[string]string{a.Key: "so"}, Annotations: map[string]string{a.Key: "so"}}
		switch a.On {
		case call.OnPod:
			obj = &corev1.Pod{ObjectMeta: meta}
		case call.OnWorkload:
			obj = &appsv1.Deployment{ObjectMeta: meta}
		default:
			continue // it is read in other ways, or by policies
		}
		if _, err := trim(obj); err != nil || a.Label && obj.GetLabels()[a.Key] != "so" || !a.Label && obj.GetAnnotations()[a.Key] != "so" {
			t.Errorf("%s is not kept: %v", a.Key, err)
		}
	}
}

// TestTrimKeepsWhatAutoscalersSay: a pod's annotations for node autoscalers, and a node's marks of its end are kept; and of a
// large node no more than of others.
func TestTrimKeepsWhatAutoscalersSay(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{safeToEvict: "true", doNotDisrupt: "true", "example.com/x": "y"}}}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{terminationAnnotation: "2026-01-01T12:00:00Z", "example.com/x": strings.Repeat("x", 200<<10)}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: "PreemptScheduled", Status: corev1.ConditionTrue, Message: strings.Repeat("x", 200<<10)},
			{Type: "RebootScheduled", Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: corev1.ConditionTrue},
		}},
	}
	for _, obj := range []any{pod, node} {
		if _, err := trim(obj); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]string{safeToEvict: "true", doNotDisrupt: "true"}, pod.Annotations); diff != "" {
		t.Errorf("of a pod: -want, +got:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{terminationAnnotation: "2026-01-01T12:00:00Z"}, node.Annotations); diff != "" {
		t.Errorf("of a node: -want, +got:\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.NodeCondition{{Type: "PreemptScheduled", Status: corev1.ConditionTrue}}, node.Status.Conditions); diff != "" {
		t.Errorf("of its conditions: -want, +got:\n%s", diff)
	}
}

// TestTrimOfARefusal: only Events about refusals of the delete policy are counted.
func TestTrimOfARefusal(t *testing.T) {
	const refused = "Error deleting: ValidatingAdmissionPolicy 'callguard-delete' with binding 'callguard-delete' denied request: pod a holds calls"
	trimmed, err := trim(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, Message: refused, Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := trimmed.(*corev1.Event); !ok || e.Message != admission.DeletePolicy || e.Count != 3 || e.Name != "e" {
		t.Errorf("kept %+v; want the policy, the count and the name", trimmed)
	}
}
