// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
)

const (
	gateName = "call-gate"
	// configError is the kubelet's reason for a container whose Secret, ConfigMap or key in one is missing.
	configError = "CreateContainerConfigError"
	// maxConfigError limits the kubelet's message about it, in bytes, because it contains
	// names of objects.
	maxConfigError = 300
)

// mistakes returns the mistakes in a pod's template that weaken the protection of its
// calls. Policies only warned about them when the template was applied.
func mistakes(pod *corev1.Pod) (list []string) {
	if slices.ContainsFunc(pod.Spec.InitContainers, isGate) && namesNoGate(pod) {
		list = append(list, fmt.Sprintf("its pods have a call-gate but no annotation %s, so the calls that call-gate counts are not read; add %s: \"8089\" to the pod template, or the port of --status-address",
			call.GatePortAnnotation, call.GatePortAnnotation))
	}
	if len(pod.Status.ContainerStatuses) > 1 {
		list = append(list, "its pods have more than one regular container, and a pod of which one has not started is evicted whatever calls it holds; make helpers native sidecars: initContainers with restartPolicy: Always")
	}
	return list
}

func isGate(c corev1.Container) bool {
	return c.Name == gateName || slices.ContainsFunc(c.Command, func(word string) bool { return strings.HasSuffix(word, "/"+gateName) })
}

// namesNoGate reports whether a pod has a gate and no annotation for its port.
func namesNoGate(pod *corev1.Pod) bool {
	return pod.Annotations[call.GatePortAnnotation] == "" && !strings.Contains(pod.Annotations[call.WitnessesAnnotation], string(call.Gate))
}

// CannotStart returns why a container of a pod cannot be created, in the kubelet's words:
// which Secret, ConfigMap or key is missing. It is empty if none is known to be missing.
func CannotStart(pod *corev1.Pod) string {
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && w.Reason == configError {
			return fmt.Sprintf("container %s cannot be created: %s", c.Name, call.Plain(w.Message, maxConfigError))
		}
	}
	return ""
}

// trimMistakes keeps what mistakes and CannotStart read of a pod's containers and their
// statuses, in addition to what is already kept.
func trimMistakes(pod *corev1.Pod, spec *corev1.PodSpec, status *corev1.PodStatus) {
	if slices.ContainsFunc(pod.Spec.InitContainers, isGate) && namesNoGate(pod) {
		spec.InitContainers = append(spec.InitContainers, corev1.Container{Name: gateName})
	}
	waits := func(c corev1.ContainerStatus) *corev1.ContainerStateWaiting {
		if w := c.State.Waiting; w != nil && w.Reason == configError {
			return &corev1.ContainerStateWaiting{Reason: w.Reason, Message: call.Plain(w.Message, maxConfigError)}
		}
		return nil
	}
	for i, c := range pod.Status.ContainerStatuses {
		status.ContainerStatuses[i].State.Waiting = waits(c)
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if w := waits(c); w != nil {
			status.InitContainerStatuses = append(status.InitContainerStatuses, corev1.ContainerStatus{Name: c.Name, State: corev1.ContainerState{Waiting: w}})
		}
	}
}
