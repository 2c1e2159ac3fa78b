// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// asking is a trigger of callguard's external scaler.
func asking(metric, metricType string) string {
	return `{type: external-push, metricType: ` + metricType + `, metadata: {scalerAddress: "metrics-adapter.callguard-system.svc:8091", metric: ` + metric + `}}`
}

// scaledBy is the ScaledObject of a Deployment, with this spec besides.
func scaledBy(t *testing.T, name, spec string) scaledObject {
	t.Helper()
	var o scaledObject
	if err := yaml.Unmarshal([]byte("metadata: {name: "+name+", namespace: "+voice+"}\nspec: {scaleTargetRef: {name: "+name+"}, "+spec+"}"), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestScaledObjectMistakes(t *testing.T) {
	const others = `{type: cron, metadata: {desiredReplicas: "5"}}, {type: external, metadata: {scalerAddress: "queue.jobs.svc:80", metric: length}}`
	right := asking(activeCalls, "AverageValue") + ", " + asking(waitingCalls, "Value")
	for name, tc := range map[string]struct {
		reason, spec string
		want         string // empty: nothing is wrong
	}{
		"FromZero":     {reason: "As charts/voice-agent has it.", spec: "minReplicaCount: 0, fallback: {replicas: 2}, triggers: [" + right + "]"},
		"Others":       {reason: "What others are asked is theirs.", spec: "minReplicaCount: 1, fallback: {replicas: 0}, triggers: [" + others + "]"},
		"BesideOthers": {reason: "One trigger of ours knows that a call waits.", spec: "triggers: [" + right + ", " + others + "]"},
		"ZeroOfOthers": {reason: "KEDA takes no minReplicaCount for zero.", spec: "triggers: [" + others + "]", want: "may scale Deployment agent to zero, and none of its triggers asks callguard"},
		"Misspelt":     {reason: "The scaler refuses it, so nothing is scaled.", spec: "triggers: [" + asking("activeCalls", "AverageValue") + "]", want: `asks callguard for metric "activeCalls"`},
		"Value":        {reason: "The sum grows with the pods, and so do the pods.", spec: "triggers: [" + asking(activeCalls, "Value") + "]", want: "compares active_calls by metricType Value"},
		"NoType":       {reason: "KEDA takes none for AverageValue.", spec: `triggers: [{type: external, metadata: {scalerAddress: "metrics-adapter.callguard-system:8091", metric: waiting_calls}}]`, want: "compares waiting_calls by metricType AverageValue"},
		"FallsToZero":  {reason: "An error is no idleness.", spec: "fallback: {replicas: 0}, triggers: [" + right + "]", want: "has fallback.replicas: 0"},
		"KeepsWhatIs":  {reason: "More than the fallback is kept.", spec: "fallback: {replicas: 0, behavior: currentReplicasIfHigher}, triggers: [" + right + "]"},
	} {
		t.Run(name, func(t *testing.T) {
			o := scaledBy(t, "agent", tc.spec)
			list := scaledObjectMistakes(&o, "callguard-system")
			if tc.want == "" && len(list) == 0 {
				return
			}
			if tc.want == "" || len(list) != 1 || !strings.Contains(list[0].what, tc.want) || list[0].do == "" {
				t.Errorf("%s It finds %+v; want %q", tc.reason, list, tc.want)
			}
		})
	}
}

// TestDoctorOnScaledObjects: doctor reports the mistakes of ScaledObjects of guarded workloads, in enabled namespaces, and does
// not ask for any where KEDA is not installed.
func TestDoctorOnScaledObjects(t *testing.T) {
	kedas := autoscaler("one", 1) // KEDA's own does not count as a second one
	kedas.Name = "keda-hpa-one"
	s := newStage(t, scaledWorkload("one", true), scaledWorkload("web-site", false), kedas)
	wrong := "triggers: [" + asking("calls", "AverageValue") + "]"
	elsewhere := scaledBy(t, "one", wrong)
	elsewhere.Namespace = "not-enabled"
	s.scaledObjects = []scaledObject{scaledBy(t, "one", wrong), scaledBy(t, "web-site", wrong), scaledBy(t, "gone", wrong), elsewhere}
	where := scene{namespaces: map[string]bool{voice: true}}
	if list := s.checkAutoscalers(t.Context(), "", where); len(list) != 1 || list[0].level != ok {
		t.Errorf("without KEDA it finds %+v; want none", list)
	}
	s.fake.Resources = append(s.fake.Resources, &metav1.APIResourceList{GroupVersion: "keda.sh/v1alpha1"})
	want := []finding{{warn, "autoscalers", `ScaledObject voice/one asks callguard for metric "calls", which its external scaler does not serve`, "metric: active_calls or waiting_calls"}}
	if diff := cmp.Diff(want, s.checkAutoscalers(t.Context(), "", where), cmp.AllowUnexported(finding{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
