// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	defaultContainerAnnotation = "kubectl.kubernetes.io/default-container"

	statusTimeout = 5 * time.Second
	statusRetry   = time.Second
	restartDelay  = time.Second
)

// mainStatus returns the status of the container whose process the fleet simulates: the one in kubectl's
// default-container annotation, else the first.
func mainStatus(pod *corev1.Pod) (corev1.ContainerStatus, bool) {
	name := pod.Annotations[defaultContainerAnnotation]
	if name == "" && len(pod.Spec.Containers) > 0 {
		name = pod.Spec.Containers[0].Name
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == name {
			return s, true
		}
	}
	return corev1.ContainerStatus{}, false
}

// containerRuns reports whether the pod's process should run.
func containerRuns(pod *corev1.Pod) bool {
	status, ok := mainStatus(pod)
	return ok && pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != "" && status.State.Running != nil
}

// containerStopped reports whether the pod's container has been reported as stopped.
func containerStopped(pod *corev1.Pod) bool {
	status, _ := mainStatus(pod)
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || status.State.Terminated != nil
}

// stoppedStatus is what a kubelet writes when a container of a pod has exited. If the pod is being deleted, all
// containers have exited, and its phase is final.
func stoppedStatus(pod *corev1.Pod, container string, code int32, deleted bool, now time.Time) corev1.PodStatus {
	reason, phase := "Completed", corev1.PodSucceeded
	if code != 0 {
		reason, phase = "Error", corev1.PodFailed
	}
	stop := func(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
		var out []corev1.ContainerStatus
		for _, s := range statuses {
			if s.State.Running == nil || !deleted && s.Name != container {
				continue
			}
			s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: code, Reason: reason, StartedAt: s.State.Running.StartedAt, FinishedAt: metav1.NewTime(now), ContainerID: s.ContainerID,
			}}
			s.Ready, s.Started = false, new(bool)
			out = append(out, s)
		}
		return out
	}
	status := corev1.PodStatus{ContainerStatuses: stop(pod.Status.ContainerStatuses), Conditions: ready(corev1.ConditionFalse, now)}
	if deleted {
		status.Phase = phase
		status.InitContainerStatuses = stop(pod.Status.InitContainerStatuses) // native sidecars
	}
	return status
}

// restartedStatus is what a kubelet writes when it has restarted a crashed container. One with a probe is not ready
// yet.
func restartedStatus(pod *corev1.Pod, container string, probed bool, now time.Time) corev1.PodStatus {
	value := corev1.ConditionTrue
	if probed {
		value = corev1.ConditionFalse
	}
	status := corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready(value, now)}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != container {
			continue
		}
		s.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: exitKilled, Reason: "Error", FinishedAt: metav1.NewTime(now), ContainerID: s.ContainerID,
		}}
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}}
		s.RestartCount++
		started := true
		s.Ready, s.Started = !probed, &started
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	return status
}

func ready(value corev1.ConditionStatus, now time.Time) []corev1.PodCondition {
	at := metav1.NewTime(now)
	return []corev1.PodCondition{
		{Type: corev1.ContainersReady, Status: value, LastTransitionTime: at},
		{Type: corev1.PodReady, Status: value, LastTransitionTime: at},
	}
}

// statusPatch creates a strategic merge patch of exactly these fields, for exactly this pod. The states of a container
// exclude each other, so the ones not set are written as null.
func statusPatch(uid types.UID, status corev1.PodStatus) ([]byte, error) {
	raw, err := json.Marshal(status)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a pod status: %w", err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("cannot encode a pod status: %w", err)
	}
	for _, list := range []string{"containerStatuses", "initContainerStatuses"} {
		containers, _ := fields[list].([]any)
		for _, c := range containers {
			container, _ := c.(map[string]any)
			state, _ := container["state"].(map[string]any)
			for _, name := range []string{"running", "terminated", "waiting"} {
				if _, set := state[name]; !set && state != nil {
					state[name] = nil
				}
			}
		}
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": fields})
}

// writeStatus writes as the pod's own node, and retries until it is written, the pod is gone or ctx ends.
func (f *Fleet) writeStatus(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	patch, err := statusPatch(pod.UID, status)
	if err != nil {
		return err
	}
	for {
		err := f.writeStatusOnce(ctx, pod, patch)
		switch {
		case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone, or another pod of that name
			return nil
		}
		f.cfg.Log.Warn("Status of a pod is not written", "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(statusRetry):
		}
	}
}

func (f *Fleet) writeStatusOnce(ctx context.Context, pod *corev1.Pod, patch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	client, err := f.cfg.NodeClient(pod.Spec.NodeName)
	if err != nil {
		return fmt.Errorf("no client of node %s for the status of pod %s/%s: %w; see Config.NodeClient", pod.Spec.NodeName, pod.Namespace, pod.Name, err)
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("cannot write the status of pod %s/%s as node %s: %w; check the rights of the node's client", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
	}
	return nil
}
