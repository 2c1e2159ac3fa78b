// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/metrics/pkg/client/custom_metrics"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// TestLatency measures the time from an agent's joining or leaving until the aggregated API
// serves the new value, with webhooks.
func TestLatency(t *testing.T) {
	pod := lonePod(t, namespace(t, "latency"))
	measure(t, metricsClient(t, stage.Config), pod, 100, time.Second)
}

// TestLatencyWithoutWebhooks measures the same for an adapter without webhooks. First it
// waits until LiveKit has dropped agents that an earlier test killed: if most agents leave
// within one sweep, their pods are unknown for a while, which is not tested here.
func TestLatencyWithoutWebhooks(t *testing.T) {
	const shortResync = 4 * time.Second
	pod := lonePod(t, namespace(t, "latency-without"))
	deaf := adapter(t, "--resync-interval="+shortResync.String(), "--max-staleness=45s")
	config, err := stage.Direct(t.Context(), deaf)
	trial.Must(t, err)
	client := metricsClient(t, config)
	eventually(t, 30*time.Second, "the adapter without webhooks knows the pod", func() (bool, error) {
		_, err := valueOf(client, pod)
		return err == nil, err
	})
	eventually(t, time.Minute, "no room has an agent", func() (bool, error) {
		return strings.Contains(adapterPath(t, deaf, "/metrics"), `callguard_livekit_agent_rooms{project="default"} 0`), nil
	})
	measure(t, client, pod, 12, shortResync)
}

func measure(t *testing.T, client custom_metrics.CustomMetricsClient, pod *corev1.Pod, rounds int, limit time.Duration) {
	t.Helper()
	var joins, leaves []time.Duration
	for i := range rounds {
		began := time.Now()
		leave, err := lab.Join(t.Context(), stage.LiveKits[0], lab.Participant{
			Room: fmt.Sprintf("%s-%s-%d", lab.Telephone(0), pod.Namespace, i), Identity: "agent", Kind: lksdk.ParticipantAgent, Attributes: attributed(pod),
		})
		trial.Must(t, err)
		untilServed(t, client, pod, 1)
		joins = append(joins, time.Since(began)) // including dialling
		began = time.Now()
		leave()
		untilServed(t, client, pod, 0)
		leaves = append(leaves, time.Since(began))
	}
	for what, all := range map[string][]time.Duration{"join": joins, "leave": leaves} {
		slices.Sort(all)
		p50, p99 := all[len(all)/2], all[(len(all)*99-1)/100]
		t.Logf("%s to served: p50 %d ms, p99 %d ms, worst %d ms of %d",
			what, p50.Milliseconds(), p99.Milliseconds(), all[len(all)-1].Milliseconds(), len(all))
		if p99 > limit {
			t.Errorf("%s to served: p99 is %s, more than %s", what, p99, limit)
		}
	}
}

// lonePod is a guarded pod without a process, with rooms as its only witness.
func lonePod(t *testing.T, ns string) *corev1.Pod {
	t.Helper()
	template := lab.Template()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.Name = ns, "lone"
	pod.Labels[fleet.UnplayedLabel] = "true"
	pod.Annotations = map[string]string{call.WitnessesAnnotation: string(call.Rooms)}
	none := int64(0)
	pod.Spec.TerminationGracePeriodSeconds = &none
	_, err := stage.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	trial.Must(t, err)
	ready, err := stage.ReadyPods(t.Context(), ns, 1)
	trial.Must(t, err)
	client := metricsClient(t, stage.Config)
	eventually(t, 30*time.Second, "the pod is known to be idle", func() (bool, error) {
		n, err := valueOf(client, &ready[0])
		return n == 0, err
	})
	return &ready[0]
}

func valueOf(client custom_metrics.CustomMetricsClient, pod *corev1.Pod) (int64, error) {
	value, err := client.NamespacedMetrics(pod.Namespace).GetForObject(podKind(), pod.Name, "active_calls", labels.Everything())
	if err != nil {
		stage.Hear("the answer for a pod", err.Error())
		return 0, err
	}
	return value.Value.Value(), nil
}

// untilServed waits until the pod has the value.
func untilServed(t *testing.T, client custom_metrics.CustomMetricsClient, pod *corev1.Pod, want int64) {
	t.Helper()
	began := time.Now()
	for {
		got, err := valueOf(client, pod)
		trial.Must(t, err)
		took := time.Since(began)
		if got == want {
			return
		}
		if took > time.Minute {
			t.Fatalf("after %s the pod still has %d calls, not %d", took, got, want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
