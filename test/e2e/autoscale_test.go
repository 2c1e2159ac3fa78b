// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// TestAutoscale begins and ends 30 calls, with both forms of the metric.
func TestAutoscale(t *testing.T) {
	forms := map[string]autoscalingv2.MetricSpec{"object": lab.ObjectForm(), "pods": lab.PodsForm()}
	for _, form := range sorted(forms) {
		t.Run(form, func(t *testing.T) {
			ns := namespace(t, "autoscale-"+form)
			play(t, ns, 10, forms[form], 0)
			r := record(t, ns)

			var calls []*fleet.Call
			for wave := range 6 {
				calls = append(calls, dial(t, fmt.Sprintf("%s-%d", ns, wave), 5)...)
			}
			eventually(t, time.Minute, "6 replicas carry 30 calls", func() (bool, error) {
				n, err := replicas(t.Context(), ns)
				return n == 6, err
			})
			_, err := stage.ReadyPods(t.Context(), ns, 6)
			trial.Must(t, err)

			for len(calls) > 0 {
				hangUp(calls[:5])
				noneDropped(t, calls[:5])
				calls = calls[5:]
			}
			eventually(t, 2*time.Minute, "1 replica is left", func() (bool, error) {
				n, err := replicas(t.Context(), ns)
				return n == 1, err
			})
			_, err = stage.ReadyPods(t.Context(), ns, 1)
			trial.Must(t, err)

			seen := r.seen(t)
			if slices.Max(seen) != 6 || !upThenDown(seen) {
				t.Errorf("replicas went %v; want up to 6 and down again, without a step back", seen)
			}
			if len(r.inactive) > 0 {
				t.Errorf("ScalingActive was not True: %v", r.inactive)
			}
			onlyTheAutoscaler(t, ns)
			t.Logf("replicas: %v", seen)
		})
	}
}

func upThenDown(seen []int32) bool {
	top := slices.Index(seen, slices.Max(seen))
	return slices.IsSorted(seen[:top+1]) && slices.IsSortedFunc(seen[top:], func(a, b int32) int { return int(b - a) })
}

// onlyTheAutoscaler checks who has set the Deployment's replicas last, and that each step
// has an Event of the autoscaler.
func onlyTheAutoscaler(t *testing.T, ns string) {
	t.Helper()
	d, err := stage.Client.AppsV1().Deployments(ns).Get(t.Context(), lab.AgentName, metav1.GetOptions{})
	trial.Must(t, err)
	for _, entry := range d.ManagedFields {
		if entry.FieldsV1 != nil && strings.Contains(entry.FieldsV1.GetRawString(), `"f:replicas"`) && entry.Subresource == "scale" && entry.Manager != "kube-controller-manager" {
			t.Errorf("%s has set replicas", entry.Manager)
		}
	}
}

// TestSetAside sets 8 busy pods aside by hand, as the guard does, next to 2 overloaded
// ones. The mean over pods is diluted; the sum of the Deployment is not.
func TestSetAside(t *testing.T) {
	ns := namespace(t, "aside")
	d := lab.Agent(ns, 10)
	d.Spec.Template.Labels[fleet.UnplayedLabel] = "true"
	d.Spec.Template.Annotations = map[string]string{"callguard.dev/witnesses": "rooms"}
	d, err := stage.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{})
	trial.Must(t, err)
	pods, err := stage.ReadyPods(t.Context(), ns, 10)
	trial.Must(t, err)
	busy, aside := pods[:2], pods[2:]
	for i := range busy {
		patchPod(t, &busy[i], `{"metadata":{"annotations":{"controller.kubernetes.io/pod-deletion-cost":"1000"}}}`)
	}
	for i := range aside {
		hash := aside[i].Labels["pod-template-hash"]
		patchPod(t, &aside[i], fmt.Sprintf(`{"metadata":{"labels":{"pod-template-hash":"%s-aside"},"annotations":{"callguard.dev/hash":"%s"},
			"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"%s","uid":"%s","controller":true}]}}`, hash, hash, d.Name, d.UID))
	}
	_, err = stage.Client.AppsV1().Deployments(ns).Patch(t.Context(), d.Name, types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{})
	trial.Must(t, err)
	_, err = stage.ReadyPods(t.Context(), ns, 10)
	trial.Must(t, err)

	var agents []lab.Participant
	for i := range busy {
		agents = append(agents, agentsIn(&busy[i], 20)...)
	}
	for i := range aside {
		agents = append(agents, agentsIn(&aside[i], 1)...)
	}
	joinAll(t, 0, agents)
	client := metricsClient(t, stage.Config)
	eventually(t, 30*time.Second, "48 calls are counted", func() (bool, error) {
		n, err := callsOf(client, ns, lab.AgentName)
		return n == 48, err
	})
	_, err = stage.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(t.Context(), lab.Autoscaler(ns, 20, lab.ObjectForm(), time.Minute), metav1.CreateOptions{})
	trial.Must(t, err)
	eventually(t, time.Minute, "the Deployment grows to 10 replicas", func() (bool, error) {
		n, err := replicas(t.Context(), ns)
		return n == 10, err
	})
}

func patchPod(t *testing.T, pod *corev1.Pod, patch string) {
	t.Helper()
	_, err := stage.Client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	trial.Must(t, err)
}
