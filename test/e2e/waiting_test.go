// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/metrics/pkg/client/custom_metrics"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// waitingOf reads a Deployment's waiting_calls.
func waitingOf(client custom_metrics.CustomMetricsClient, namespace string) (int64, error) {
	value, err := client.NamespacedMetrics(namespace).GetForObject(deploymentKind(), lab.AgentName, "waiting_calls", labels.Everything())
	if err != nil {
		stage.Hear("the answer for waiting calls", err.Error())
		return 0, err
	}
	return value.Value.Value(), nil
}

// TestCallsThatWait: a caller requests an agent by name, and the only one is full. The call waits, so an autoscaler adds a
// pod, the agent is dispatched again when that pod is able, and the caller is answered. Meanwhile a room of people counts
// for no workload.
func TestCallsThatWait(t *testing.T) {
	const agentName = "front-desk"
	ns := namespace(t, "waiting")
	d := lab.Agent(ns, 1)
	d.Spec.Template.Annotations = map[string]string{
		call.AgentNameAnnotation: agentName, call.DispatchAgainAnnotation: "true",
		fleet.AgentNameAnnotation: agentName, fleet.MaxJobsAnnotation: "1",
	}
	lab.Gated(&d.Spec.Template, lab.GateKind, true)
	_, err := stage.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	trial.Must(t, err)
	client := metricsClient(t, stage.Config)
	eventually(t, time.Minute, "the agent is known to be idle, and no call waits", func() (bool, error) {
		calls, err := callsOf(client, ns, lab.AgentName)
		if err != nil || calls != 0 {
			return false, err
		}
		waiting, err := waitingOf(client, ns)
		if err != nil || waiting != 0 {
			return false, err
		}
		for _, a := range stage.Fleet.Agents() {
			if a.Pod.Namespace == ns && a.Registered {
				return true, nil
			}
		}
		return false, nil
	})

	leave := joinAll(t, 0, []lab.Participant{
		{Room: lab.Telephone(0) + "-people", Identity: "one"}, {Room: lab.Telephone(0) + "-people", Identity: "two"},
	})
	defer leave()
	options := fleet.DialOptions{AgentName: agentName, AnswerWithin: 3 * time.Minute}
	first, err := stage.Callers.Dial(t.Context(), lab.Telephone(0)+"-waiting-0", options)
	trial.Must(t, err)
	defer first.HangUp()

	type answer struct {
		call *fleet.Call
		err  error
		took time.Duration
	}
	began, answered := time.Now(), make(chan answer, 1)
	go func() {
		second, err := stage.Callers.Dial(t.Context(), lab.Telephone(0)+"-waiting-1", options)
		answered <- answer{second, err, time.Since(began)}
	}()
	eventually(t, 20*time.Second, "one call waits", func() (bool, error) {
		n, err := waitingOf(client, ns)
		return n == 1, err
	})
	t.Logf("the call was known to wait %s after its caller dialled", time.Since(began).Round(100*time.Millisecond))

	half := resource.MustParse("500m")
	hpa := lab.Autoscaler(ns, 3, lab.ObjectForm(), 5*time.Minute)
	hpa.Spec.Metrics = append(hpa.Spec.Metrics, autoscalingv2.MetricSpec{
		Type: autoscalingv2.ObjectMetricSourceType,
		Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: lab.AgentName},
			Metric:          autoscalingv2.MetricIdentifier{Name: "waiting_calls"},
			Target:          autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &half},
		},
	})
	_, err = stage.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(t.Context(), hpa, metav1.CreateOptions{})
	trial.Must(t, err)
	eventually(t, time.Minute, "the Deployment grows for the call that waits", func() (bool, error) {
		n, err := replicas(t.Context(), ns)
		return n >= 2, err
	})
	grew := time.Now()
	second := <-answered
	trial.Must(t, second.err)
	defer second.call.HangUp()
	t.Logf("the caller was answered %s after dialling, %s after the Deployment grew", second.took.Round(100*time.Millisecond), time.Since(grew).Round(100*time.Millisecond))
	eventually(t, 20*time.Second, "no call waits any more", func() (bool, error) {
		n, err := waitingOf(client, ns)
		return n == 0, err
	})
	noneDropped(t, []*fleet.Call{first, second.call})
	metrics, err := stage.AdapterMetrics(t.Context(), stage.Adapter)
	trial.Must(t, err)
	if sent := metrics.Sum("callguard_dispatches_again_total", "outcome", "sent"); sent < 1 || sent > 3 {
		t.Errorf("LiveKit was asked again %v times, want once or, where it was busy, a few times", sent)
	}
}
