// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Report writes what a kubelet does of a pod when its node reports again: what KillNode killed has started once more, and an agent
// that ran on is ready, which controllers took from it. A pod that is to go stays as it is.
func (f *Fleet) Report(ctx context.Context, pod *corev1.Pod) error {
	f.mu.Lock()
	p, alive, kubelet := f.processes[pod.UID], f.alive[pod.UID], f.kubelets[pod.UID]
	f.mu.Unlock()
	switch {
	case p == nil || pod.DeletionTimestamp != nil:
		return nil
	case !alive && p.lostPower():
		return f.writeStatus(ctx, pod, restartedStatus(pod, p.container, pod.Annotations[ProbedAnnotation] == "true", time.Now()))
	case !alive: // it is just started again
		return nil
	case slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}):
		return nil
	case kubelet != nil:
		kubelet.again()
		return nil
	}
	return f.writeStatus(ctx, pod, corev1.PodStatus{Conditions: ready(corev1.ConditionTrue, time.Now())})
}

// again has everything written once more.
func (k *kubelet) again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = ""
}

// lostPower reports whether KillNode killed the process.
func (p *process) lostPower() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause == CauseNode
}
