// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
)

// AgentName is the name of the Deployment that Agent creates, and of its pods' app.
const AgentName = "agent"

// Namespace creates an enabled namespace.
func (l *Lab) Namespace(ctx context.Context, name string) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{call.EnabledLabel: "true"}}}
	if _, err := l.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make namespace %s: %w", name, err)
	}
	return nil
}

// DeleteNamespace deletes a namespace, kills its pods despite the admission policies, and
// waits until none is left. Kubernetes takes ten seconds more to remove the namespace
// itself, which nobody has to wait for, because its name is not used again.
func (l *Lab) DeleteNamespace(ctx context.Context, name string) error {
	breaker, err := l.breakGlass()
	if err != nil {
		return err
	}
	if err := l.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("cannot delete namespace %s: %w", name, err)
	}
	atOnce, none := int64(0), 0
	return Eventually(ctx, 10*time.Minute, "no pod is left in namespace "+name, func() (bool, error) {
		pods := breaker.CoreV1().Pods(name)
		if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &atOnce}, metav1.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("cannot kill the pods of namespace %s: %w", name, err)
		}
		left, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return false, fmt.Errorf("cannot look for pods in namespace %s: %w", name, err)
		}
		if none++; len(left.Items) > 0 {
			none = 0
		}
		return none == 10, nil // for a second, because controllers may not know yet
	})
}

// Template is the pod template of a guarded agent.
func Template() corev1.PodTemplateSpec {
	grace := int64(120)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": AgentName, call.GuardedLabel: "true"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "agent", Image: "agent:demo"}},
		},
	}
}

// Agent is a Deployment of guarded agents.
func Agent(namespace string, replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: AgentName},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": AgentName}},
			Template: Template(),
		},
	}
}

// ObjectForm is the default metric of the HPA: the calls of the Deployment, five per
// replica.
func ObjectForm() autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ObjectMetricSourceType,
		Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: AgentName},
			Metric:          autoscalingv2.MetricIdentifier{Name: "active_calls"},
			Target:          target(),
		},
	}
}

// PodsForm is the other metric: the mean over the pods.
func PodsForm() autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "active_calls"}, Target: target()},
	}
}

func target() autoscalingv2.MetricTarget {
	five := resource.MustParse("5")
	return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &five}
}

// Autoscaler is an HPA of the Agent from one replica to most, with this window for
// scaling down.
func Autoscaler(namespace string, most int32, metric autoscalingv2.MetricSpec, window time.Duration) *autoscalingv2.HorizontalPodAutoscaler {
	one, down, none := int32(1), int32(window.Seconds()), int32(0)
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: AgentName},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: AgentName},
			MinReplicas:    &one, MaxReplicas: most,
			Metrics: []autoscalingv2.MetricSpec{metric},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
				ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &none},
				ScaleDown: &autoscalingv2.HPAScalingRules{
					StabilizationWindowSeconds: &down,
					Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 5}},
				},
			},
		},
	}
}

// ReadyPods waits until n guarded pods of a namespace are running and ready, and returns
// them.
func (l *Lab) ReadyPods(ctx context.Context, namespace string, n int) ([]corev1.Pod, error) {
	var ready []corev1.Pod
	err := Eventually(ctx, 2*time.Minute, fmt.Sprintf("%d pods of namespace %s are ready", n, namespace), func() (bool, error) {
		list, err := l.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
		if err != nil {
			return false, err
		}
		ready = ready[:0]
		for _, pod := range list.Items {
			if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && pod.Status.PodIP != "" {
				ready = append(ready, pod)
			}
		}
		return len(ready) == n, nil
	})
	return ready, err
}
