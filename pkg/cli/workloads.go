// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
)

// prefix is the prefix of all labels and annotations of callguard.
const prefix = "callguard.dev/"

// template is a workload's pod template, with the metadata of the workload itself.
type template struct {
	kind string
	meta metav1.ObjectMeta
	spec corev1.PodTemplateSpec
}

// templates lists the workloads of a namespace, or of all, with labels or annotations of
// callguard. Workloads with a controller are left out, because their template comes from
// there.
func (c *cluster) templates(ctx context.Context, namespace string) ([]template, error) {
	var list []template
	add := func(kind string, meta metav1.ObjectMeta, spec corev1.PodTemplateSpec) {
		names := func(of map[string]string) bool { return len(ofCallguard(of)) > 0 }
		if metav1.GetControllerOfNoCopy(&meta) == nil && (names(meta.Labels) || names(meta.Annotations) || names(spec.Labels) || names(spec.Annotations)) {
			list = append(list, template{kind, meta, spec})
		}
	}
	apps := c.client.AppsV1()
	deployments, err := apps.Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the Deployments: %w", err)
	}
	for _, o := range deployments.Items {
		add("Deployment", o.ObjectMeta, o.Spec.Template)
	}
	sets, err := apps.StatefulSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the StatefulSets: %w", err)
	}
	for _, o := range sets.Items {
		add("StatefulSet", o.ObjectMeta, o.Spec.Template)
	}
	daemons, err := apps.DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the DaemonSets: %w", err)
	}
	for _, o := range daemons.Items {
		add("DaemonSet", o.ObjectMeta, o.Spec.Template)
	}
	replicas, err := apps.ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the ReplicaSets: %w", err)
	}
	for _, o := range replicas.Items {
		add("ReplicaSet", o.ObjectMeta, o.Spec.Template)
	}
	return list, nil
}

// ofCallguard returns callguard's keys, sorted.
func ofCallguard(of map[string]string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(of)), func(key string) bool { return !strings.HasPrefix(key, prefix) })
}

// mistakes returns the mistakes about which policy callguard-workload-advice warns when the
// workload is applied, except the one about its namespace, which has its own check.
// Workloads may be older than the policy.
func (t template) mistakes() (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	known := map[string]bool{}
	for _, a := range call.Annotations() {
		if !a.Label && (a.On == call.OnPod && a.Writer == call.AtBirth || a.On == call.OnWorkload) {
			known[a.Key] = a.On == call.OnPod
		}
	}
	value, labelled := t.spec.Labels[call.GuardedLabel]
	switch {
	case !labelled:
		say("its pod template has no label %s, so nothing holds or counts its calls", call.GuardedLabel)
	case value != "true" && value != "false":
		say("label %s of its pod template is %q, not \"true\", so nothing holds or counts its calls", call.GuardedLabel, value)
	}
	for _, key := range ofCallguard(t.spec.Annotations) {
		if !known[key] {
			say("callguard knows no annotation %s of a pod template", key)
		}
	}
	for _, key := range ofCallguard(t.meta.Annotations) {
		if onPod, is := known[key]; onPod || !is {
			say("annotation %s has no effect on the workload itself", key)
		}
	}
	if value != "true" {
		return list
	}
	gate := slices.ContainsFunc(t.spec.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == "call-gate" || slices.ContainsFunc(c.Command, func(word string) bool { return strings.HasSuffix(word, "/call-gate") })
	})
	if gate && t.spec.Annotations[call.GatePortAnnotation] == "" && !strings.Contains(t.spec.Annotations[call.WitnessesAnnotation], string(call.Gate)) {
		say("it has a call-gate and no annotation %s", call.GatePortAnnotation)
	}
	if len(t.spec.Spec.Containers) > 1 {
		say("it has more than one regular container, and a pod of which one has not started is evicted whatever calls it holds")
	}
	if t.spec.Spec.PriorityClassName == "" {
		say("it has no priority, and the scheduler may try to preempt its pods")
	}
	return list
}

// deadlyProbes returns liveness probes that end calls for a reason that a restart does not
// fix: they fail while LiveKit or the Realtime API is away.
func (t template) deadlyProbes() (list []string) {
	if t.spec.Labels[call.GuardedLabel] != "true" {
		return nil
	}
	for _, c := range slices.Concat(t.spec.Spec.InitContainers, t.spec.Spec.Containers) {
		p := c.LivenessProbe
		if p != nil && p.HTTPGet != nil && (p.HTTPGet.Path == "/readyz" || p.HTTPGet.Path == "/healthz/realtime") {
			list = append(list, fmt.Sprintf("the liveness probe of container %s asks %s, which fails while LiveKit or the Realtime API is down: the kubelet then restarts the container and ends its calls", c.Name, p.HTTPGet.Path))
		}
	}
	return list
}

// checkWorkloads looks for mistakes in pod templates.
func (c *cluster) checkWorkloads(ctx context.Context, namespace string) []finding {
	const check = "workloads"
	all, err := c.templates(ctx, namespace)
	if err != nil {
		return []finding{{warn, check, unchecked(err), ""}}
	}
	var list []finding
	for _, t := range all {
		for _, what := range t.mistakes() {
			list = append(list, finding{warn, check, fmt.Sprintf("%s %s/%s: %s", t.kind, t.meta.Namespace, t.meta.Name, what), "kubectl apply of it warns, with the line to write"})
		}
		for _, what := range t.deadlyProbes() {
			list = append(list, finding{warn, check, fmt.Sprintf("%s %s/%s: %s", t.kind, t.meta.Namespace, t.meta.Name, what), "make it a readinessProbe"})
		}
	}
	return bounded(list, finding{ok, check, "no mistake was found in the pod templates of workloads that name callguard", ""})
}
