// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/metrics/pkg/client/custom_metrics"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"

	lksdk "github.com/livekit/server-sdk-go/v2"
)

// namespace creates an enabled namespace that is deleted after the test.
func namespace(t *testing.T, name string) string {
	t.Helper()
	trial.Must(t, stage.Namespace(t.Context(), name))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 11*time.Minute)
		defer cancel()
		if err := stage.DeleteNamespace(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// eventually fails the test if the condition does not hold within the time.
func eventually(t *testing.T, within time.Duration, what string, holds func() (bool, error)) {
	t.Helper()
	trial.Must(t, lab.Eventually(t.Context(), within, what, holds))
}

// metricsClient is the client of kube-controller-manager for custom metrics.
func metricsClient(t *testing.T, config *rest.Config) custom_metrics.CustomMetricsClient {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(stage.Config)
	trial.Must(t, err)
	asked, err := discovery.NewDiscoveryClientForConfig(config)
	trial.Must(t, err)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	return custom_metrics.NewForConfig(config, mapper, custom_metrics.NewAvailableAPIsGetter(asked))
}

func podKind() schema.GroupKind        { return schema.GroupKind{Kind: "Pod"} }
func deploymentKind() schema.GroupKind { return schema.GroupKind{Group: "apps", Kind: "Deployment"} }

// callsOf reads a Deployment's active_calls.
func callsOf(client custom_metrics.CustomMetricsClient, namespace, deployment string) (int64, error) {
	value, err := client.NamespacedMetrics(namespace).GetForObject(deploymentKind(), deployment, "active_calls", labels.Everything())
	if err != nil {
		stage.Hear("the answer for a Deployment", err.Error())
		return 0, err
	}
	return value.Value.Value(), nil
}

// play creates a Deployment of agents and an autoscaler for it, and waits until one
// replica runs and the autoscaler is active.
func play(t *testing.T, namespace string, most int32, metric autoscalingv2.MetricSpec, window time.Duration) {
	t.Helper()
	_, err := stage.Client.AppsV1().Deployments(namespace).Create(t.Context(), lab.Agent(namespace, 1), metav1.CreateOptions{})
	trial.Must(t, err)
	_, err = stage.ReadyPods(t.Context(), namespace, 1)
	trial.Must(t, err)
	eventually(t, 30*time.Second, "the agent is registered", func() (bool, error) {
		for _, a := range stage.Fleet.Agents() {
			if a.Pod.Namespace == namespace && a.Registered {
				return true, nil
			}
		}
		return false, nil
	})
	client := metricsClient(t, stage.Config)
	eventually(t, 30*time.Second, "the agent is known to be idle", func() (bool, error) {
		n, err := callsOf(client, namespace, lab.AgentName)
		return n == 0, err
	})
	hpa := lab.Autoscaler(namespace, most, metric, window)
	_, err = stage.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(t.Context(), hpa, metav1.CreateOptions{})
	trial.Must(t, err)
	eventually(t, 30*time.Second, "the autoscaler is active", func() (bool, error) {
		active, why, err := scalingActive(t.Context(), namespace)
		if err == nil && active != corev1.ConditionTrue {
			err = fmt.Errorf("ScalingActive is %q: %s", active, why)
		}
		return active == corev1.ConditionTrue, err
	})
}

func scalingActive(ctx context.Context, namespace string) (corev1.ConditionStatus, string, error) {
	hpa, err := stage.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(ctx, lab.AgentName, metav1.GetOptions{})
	if err != nil {
		return "", "", err
	}
	for _, c := range hpa.Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive {
			return c.Status, c.Reason + ": " + c.Message, nil
		}
	}
	return "", "", nil
}

// replicas returns spec.replicas of the Deployment of agents.
func replicas(ctx context.Context, namespace string) (int32, error) {
	d, err := stage.Client.AppsV1().Deployments(namespace).Get(ctx, lab.AgentName, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return *d.Spec.Replicas, nil
}

// recorder records, ten times a second, what an autoscaler does.
type recorder struct {
	stop func()

	mu       sync.Mutex
	replicas []int32 // each value once it differs from the one before
	inactive map[string]int
	errs     []error
}

func record(t *testing.T, namespace string) *recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{inactive: map[string]int{}}
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			n, err := replicas(ctx, namespace)
			active, why, activeErr := scalingActive(ctx, namespace)
			r.mu.Lock()
			switch {
			case ctx.Err() != nil:
			case err != nil || activeErr != nil:
				r.errs = append(r.errs, err, activeErr)
			default:
				if len(r.replicas) == 0 || r.replicas[len(r.replicas)-1] != n {
					r.replicas = append(r.replicas, n)
				}
				if active != corev1.ConditionTrue {
					r.inactive[why]++
				}
			}
			r.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	r.stop = func() { cancel(); done.Wait() }
	t.Cleanup(r.stop)
	return r
}

// seen stops the recorder and returns the numbers of replicas in order.
func (r *recorder) seen(t *testing.T) []int32 {
	t.Helper()
	r.stop()
	for _, err := range r.errs {
		if err != nil {
			t.Errorf("while recording: %v", err)
		}
	}
	return r.replicas
}

// dial dials calls, each in its own room, and waits until all are answered.
func dial(t *testing.T, prefix string, n int) []*fleet.Call {
	t.Helper()
	calls := make([]*fleet.Call, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			calls[i], errs[i] = stage.Callers.Dial(t.Context(), fmt.Sprintf("%s-%s-%d", lab.Telephone(0), prefix, i), fleet.DialOptions{})
		})
	}
	all.Wait()
	for _, err := range errs {
		trial.Must(t, err)
	}
	return calls
}

func hangUp(calls []*fleet.Call) {
	var all sync.WaitGroup
	for _, c := range calls {
		all.Go(c.HangUp)
	}
	all.Wait()
}

// noneDropped fails the test if a call with this prefix ended before its caller hung up.
func noneDropped(t *testing.T, calls []*fleet.Call) {
	t.Helper()
	for _, c := range calls {
		if loss, dropped := c.Dropped(); dropped {
			t.Errorf("call in room %s was dropped: %s %s (pod %s)", c.Room, loss.Cause, loss.Detail, loss.Pod)
		}
	}
}

// attributed are the attributes of an agent in a pod.
func attributed(pod *corev1.Pod) map[string]string {
	return map[string]string{call.PodAttribute: string(pod.UID)}
}

// joinAll joins participants to rooms; they leave after the test, or before.
func joinAll(t *testing.T, livekit int, participants []lab.Participant) (leave func()) {
	t.Helper()
	leaves := make([]func(), len(participants))
	errs := make([]error, len(participants))
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, p := range participants {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			leaves[i], errs[i] = lab.Join(t.Context(), stage.LiveKits[livekit], p)
		})
	}
	all.Wait()
	var once sync.Once
	leave = func() {
		once.Do(func() {
			var all sync.WaitGroup
			for _, l := range leaves {
				if l != nil {
					all.Go(l)
				}
			}
			all.Wait()
		})
	}
	t.Cleanup(leave)
	for _, err := range errs {
		trial.Must(t, err)
	}
	return leave
}

// agentsIn returns n agents of a pod, each in its own room.
func agentsIn(pod *corev1.Pod, n int) []lab.Participant {
	var ps []lab.Participant
	for i := range n {
		ps = append(ps, lab.Participant{
			Room: fmt.Sprintf("%s-%s-%s-%d", lab.Telephone(0), pod.Namespace, pod.Name, i), Identity: fmt.Sprintf("agent-%d", i),
			Kind: lksdk.ParticipantAgent, Attributes: attributed(pod),
		})
	}
	return ps
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
