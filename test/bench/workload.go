// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const (
	namespace      = "voice"
	populateWithin = 10 * time.Minute
)

// populate makes the Deployment and waits until all its pods run.
func (b *bench) populate(ctx context.Context) ([]corev1.Pod, error) {
	if err := b.stage.Namespace(ctx, namespace); err != nil {
		return nil, err
	}
	deployments := b.stage.Client.AppsV1().Deployments(namespace)
	if _, err := deployments.Create(ctx, workload(int32(b.pods)), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("cannot make the Deployment: %w", err)
	}
	start, told := time.Now(), time.Now()
	err := lab.Eventually(ctx, populateWithin, fmt.Sprintf("%d pods are ready", b.pods), func() (bool, error) {
		d, err := deployments.Get(ctx, lab.AgentName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			b.printf(b.progress, "%d of %d pods are there, %d are ready\n", d.Status.Replicas, b.pods, d.Status.ReadyReplicas)
		}
		return int(d.Status.ReadyReplicas) == b.pods, nil
	})
	if err != nil {
		return nil, err
	}
	b.printf(b.progress, "%d pods are ready after %s\n", b.pods, time.Since(start).Round(time.Second))
	// The calls need a few of them only.
	list, err := b.stage.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: int64(max(b.calls, 1))})
	if err != nil {
		return nil, fmt.Errorf("cannot list the pods: %w", err)
	}
	return list.Items, nil
}

// workload is a Deployment of voice agents whose pods are rather small for
// production, about 5 KB as JSON. Admission adds the volume of the service
// account, and every writer its managed fields.
func workload(replicas int32) *appsv1.Deployment {
	d := lab.Agent(namespace, replicas)
	t := &d.Spec.Template
	t.Labels["app.kubernetes.io/name"], t.Labels["app.kubernetes.io/instance"] = "voice-agent", "reservations"
	t.Annotations = map[string]string{
		call.WitnessesAnnotation: "rooms", // its agents answer no GET /worker
		"checksum/config":        "3d4f1b9c6f1e7a4f4f6d0a1b7a3c5e9d8b2a6c4e1f0d9b7a5c3e1f2d4b6a8c0e",
	}
	t.Spec.Containers = []corev1.Container{agent()}
	return d
}

func agent() corev1.Container {
	probe := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("http")}}
	var env []corev1.EnvVar
	for _, v := range [][2]string{
		{"LIVEKIT_URL", "wss://livekit.example.com"}, {"AGENT_NAME", "reservations"},
	} {
		env = append(env, corev1.EnvVar{Name: v[0], Value: v[1]})
	}
	for _, v := range []string{"LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"} {
		env = append(env, corev1.EnvVar{Name: v, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "voice-agent"}, Key: v,
		}}})
	}
	return corev1.Container{
		Name: "agent", Image: "registry.example.com/voice/agent:1.4.2", Args: []string{"start"},
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: call.DefaultWorkerPort}},
		Env:   env,
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("256Mi"),
		}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 10},
	}
}
