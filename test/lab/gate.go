// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
)

// The kinds of gates in fleet.GateAnnotation: this checkout's, and an older one. The latter is Options.OldGate or, if that is
// empty, this checkout's with the answers of an older one.
const (
	GateKind    = "this"
	OldGateKind = "old"

	gateName         = "call-gate"
	gateSecretWithin = 5 * time.Second
)

// Gated puts a call-gate of a kind between the agents of a template and LiveKit, as in docs/opt-in.md. With probes, the pod is
// ready when its agent's GET / and its gate's GET /readyz succeed; without, from its start.
func Gated(p *corev1.PodTemplateSpec, kind string, probes bool) {
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[fleet.GateAnnotation] = kind
	p.Annotations[call.GatePortAnnotation] = strconv.Itoa(call.DefaultGatePort)
	always := corev1.ContainerRestartPolicyAlways
	gate := corev1.Container{Name: gateName, Image: "callguard:demo", RestartPolicy: &always}
	if probes {
		p.Annotations[fleet.ProbedAnnotation] = "true"
		gate.ReadinessProbe = probe("/readyz", call.DefaultGatePort)
		p.Spec.Containers[0].ReadinessProbe = probe("/", call.DefaultWorkerPort)
	}
	p.Spec.InitContainers = append(p.Spec.InitContainers, gate)
}

func probe(path string, port int) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt(port)}},
		PeriodSeconds: 1, FailureThreshold: 2,
	}
}

// gate starts the gates of the fleet's pods, each with its log in the stage's folder.
func (l *Lab) gate(old string) func(*corev1.Pod, string, []string, []string) (fleet.GateProcess, error) {
	return func(pod *corev1.Pod, kind string, args, env []string) (fleet.GateProcess, error) {
		var program string
		var err error
		switch kind {
		case GateKind:
			program, err = l.program(context.Background(), gateName) // built once for the stage
		case OldGateKind:
			if program = old; old == "" {
				return l.playOldGate(pod, args, env)
			}
		}
		if err != nil {
			return nil, err
		}
		if program == "" {
			return nil, fmt.Errorf("there is no gate of kind %q; use %q or %q", kind, GateKind, OldGateKind)
		}
		log := filepath.Join(l.Cluster.Dir(), "logs", gateName+"-"+pod.Namespace+"-"+pod.Name+".log")
		process, err := startIn(append(environment(l.gateClock), env...), gateName, program, log, args...)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.gates[pod.UID] = process
		return process, nil
	}
}

// projectOf returns the LiveKit project of a pod's agent. Behind a gate it is that of the Secret which the pod names, as with
// envFrom; else the first.
// envFrom; else the first.
func (l *Lab) projectOf(pod *corev1.Pod) (fleet.Project, bool) {
	name := pod.Annotations[call.SecretAnnotation]
	if name == "" || pod.Annotations[fleet.GateAnnotation] == "" {
		return project(l.LiveKits[0]), true
	}
	ctx, cancel := context.WithTimeout(context.Background(), gateSecretWithin)
	defer cancel()
	secret, err := l.Client.CoreV1().Secrets(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fleet.Project{}, false // asked again at the agent's next try
	}
	text := func(key string) string { return strings.TrimSpace(string(secret.Data[key])) }
	return fleet.Project{URL: text("url"), APIKey: text("api-key"), APISecret: text("api-secret")}, true
}

// Secret creates a Secret of a LiveKit project, as pods name it in their annotations, and lets callguard read it. Its key must
// not be published anywhere.
func (l *Lab) Secret(ctx context.Context, namespace, name string, lk local.LiveKit) error {
	l.Plant(lk.APISecret)
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	_, err := l.Client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: meta, StringData: map[string]string{"url": lk.URL, "api-key": lk.APIKey, "api-secret": lk.APISecret},
	}, metav1.CreateOptions{})
	_, roleErr := l.Client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{
		ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{name}, Verbs: []string{"get"}}},
	}, metav1.CreateOptions{})
	_, bindErr := l.Client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Namespace: AdapterNamespace, Name: AdapterName},
			{Kind: rbacv1.ServiceAccountKind, Namespace: GuardNamespace, Name: GuardName},
		},
	}, metav1.CreateOptions{})
	if err := errors.Join(err, roleErr, bindErr); err != nil {
		return fmt.Errorf("cannot make Secret %s/%s: %w", namespace, name, err)
	}
	return nil
}
