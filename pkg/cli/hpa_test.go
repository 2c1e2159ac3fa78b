// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// onMetric is an autoscaler on a metric of an object.
func onMetric(name string, target autoscalingv2.MetricTargetType) *autoscalingv2.HorizontalPodAutoscaler {
	hpa := autoscaler("web", 1)
	hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{Object: &autoscalingv2.ObjectMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: name}, Target: autoscalingv2.MetricTarget{Type: target},
	}}}
	return hpa
}

// managed names the managers of a workload's fields.
func managed(manager string, by metav1.ManagedFieldsOperationType, subresource, fields string) metav1.ObjectMeta {
	return metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: manager, Operation: by, Subresource: subresource, FieldsV1: metav1.NewFieldsV1(fields)}}}
}

func TestHPAMistakes(t *testing.T) {
	const replicas = `{"f:spec":{"f:replicas":{},"f:template":{}}}`
	for name, tc := range map[string]struct {
		reason string
		hpa    *autoscalingv2.HorizontalPodAutoscaler
		of     metav1.ObjectMeta
		want   string // empty: nothing is wrong
	}{
		"Right":        {reason: "As charts/voice-agent has it.", hpa: onMetric(activeCalls, autoscalingv2.AverageValueMetricType)},
		"Misspelt":     {reason: "A metric that no adapter serves scales nothing.", hpa: onMetric("active-calls", autoscalingv2.AverageValueMetricType), want: `reads metric "active-calls", which callguard does not serve`},
		"OtherAdapter": {reason: "Another adapter makes it of callguard's own series.", hpa: onMetric("callguard_active_calls", autoscalingv2.AverageValueMetricType)},
		"Foreign":      {reason: "Metrics of other adapters are not checked.", hpa: onMetric("queue_length", autoscalingv2.ValueMetricType)},
		"Value":        {reason: "The sum grows with the pods, and so do the pods.", hpa: onMetric(activeCalls, autoscalingv2.ValueMetricType), want: "with a Value"},
		"CPU":          {reason: "Whoever scales on CPU may.", hpa: autoscaler("web", 1)},
		"GitOwns":      {reason: "Each apply undoes the autoscaler.", hpa: autoscaler("web", 1), of: managed("kustomize-controller", metav1.ManagedFieldsOperationApply, "", replicas), want: "shares replicas of its workload with kustomize-controller"},
		"Scaled":       {reason: "The autoscaler itself writes the scale.", hpa: autoscaler("web", 1), of: managed("kube-controller-manager", metav1.ManagedFieldsOperationUpdate, "scale", replicas)},
		"Created":      {reason: "A manager that updated it once does not do so again.", hpa: autoscaler("web", 1), of: managed("kubectl-create", metav1.ManagedFieldsOperationUpdate, "", replicas)},
		"LeavesItOut":  {reason: "Git has the rest alone.", hpa: autoscaler("web", 1), of: managed("argocd-controller", metav1.ManagedFieldsOperationApply, "", `{"f:spec":{"f:template":{}}}`)},
		"Unreadable":   {reason: "An unreadable entry names no manager.", hpa: autoscaler("web", 1), of: managed("x", metav1.ManagedFieldsOperationApply, "", "[]")},
	} {
		t.Run(name, func(t *testing.T) {
			list := hpaMistakes(tc.hpa, tc.of)
			if tc.want == "" && len(list) == 0 {
				return
			}
			if tc.want == "" || len(list) != 1 || !strings.Contains(list[0].what, tc.want) || list[0].do == "" {
				t.Errorf("%s It finds %+v; want %q", tc.reason, list, tc.want)
			}
		})
	}
}

// TestDoctorOnAutoscalers: doctor reports mistakes in autoscalers of guarded pods, and of no others.
func TestDoctorOnAutoscalers(t *testing.T) {
	mine, others := onMetric("activeCalls", autoscalingv2.AverageValueMetricType), onMetric("callsPerSecond", autoscalingv2.AverageValueMetricType)
	mine.Name, mine.Spec.ScaleTargetRef.Name = "mine", "one"
	others.Name, others.Spec.ScaleTargetRef.Name = "others", "web-site"
	s := newStage(t, scaledWorkload("one", true), scaledWorkload("web-site", false), mine, others)
	list := s.checkAutoscalers(t.Context(), "", scene{namespaces: map[string]bool{voice: true}})
	want := finding{warn, "autoscalers", `HorizontalPodAutoscaler voice/mine reads metric "activeCalls", which callguard does not serve`, "name it active_calls"}
	if len(list) != 1 || list[0] != want {
		t.Errorf("it finds %+v; want %+v", list, want)
	}
}

// TestTwoAutoscalers: doctor also reports a workload that both a ScaledObject and another autoscaler scale.
func TestTwoAutoscalers(t *testing.T) {
	mine, kedas, others := autoscaler("one", 1), autoscaler("one", 1), autoscaler("two", 1)
	mine.Name, kedas.Name, others.Name = "mine", "keda-hpa-one", "others"
	s := newStage(t, scaledWorkload("one", true), scaledWorkload("two", true), mine, kedas, others)
	list := s.checkAutoscalers(t.Context(), "", scene{namespaces: map[string]bool{voice: true}})
	if len(list) != 1 || list[0].what != "HorizontalPodAutoscaler voice/mine scales Deployment one, and so does keda-hpa-one: each undoes the steps of the other" || list[0].do == "" {
		t.Errorf("it finds %+v; want one, of mine and keda-hpa-one", list)
	}
}

// TestDeadlyProbes: a liveness probe that depends on others ends calls when they are away.
func TestDeadlyProbes(t *testing.T) {
	for path, found := range map[string]bool{"/readyz": true, "/healthz/realtime": true, "/healthz": false, "/": false} {
		agent := scaledWorkload("agent", true)
		agent.Spec.Template.Spec.Containers = []corev1.Container{{Name: "agent", LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path}}}}}
		list := newStage(t, agent).checkWorkloads(t.Context(), "")
		if said := strings.Contains(list[0].what, "voice/agent: the liveness probe of container agent asks "+path+", "); said != found || said && list[0].do != "make it a readinessProbe" {
			t.Errorf("of a liveness probe at %s it says %+v", path, list)
		}
	}
}
