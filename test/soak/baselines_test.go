// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/test/lab"
)

const (
	// lookForSessions is how often pods are locked that have a call, in the way of Agones. It allocates before a session begins.
	lookForSessions = 200 * time.Millisecond
	// sessionLabel is on those pods.
	sessionLabel = "session"
)

// asBaseline gives a workload the grace and the PodDisruptionBudget of the baseline.
func (p *player) asBaseline(ctx context.Context, d *appsv1.Deployment) error {
	grace := int64(p.baseline.Grace(time.Duration(p.schedule.Duration)).Seconds())
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
	number := func(n int32) *intstr.IntOrString {
		is := intstr.FromInt32(n)
		return &is
	}
	spec := policyv1.PodDisruptionBudgetSpec{Selector: d.Spec.Selector}
	switch p.baseline {
	case Article:
		spec.MinAvailable = number(1)
	case NoneUnavailable:
		spec.MaxUnavailable = number(0)
	case AgonesLike: // of pods without an owner Kubernetes knows no percentage, and no maxUnavailable
		spec.MinAvailable, spec.Selector = number(math.MaxInt32), &metav1.LabelSelector{MatchLabels: map[string]string{sessionLabel: "true"}}
	case Grace600, GraceHour:
		return nil
	}
	pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: "baseline"}, Spec: spec}
	if _, err := p.stage.Client.PolicyV1().PodDisruptionBudgets(d.Namespace).Create(ctx, pdb, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make the PodDisruptionBudget of %s: %w", p.baseline, err)
	}
	return nil
}

// lockSessions takes pods that have a call from their ReplicaSets, which make others, and keeps evictions from them. It deletes
// them when their call is over.
func (p *player) lockSessions(ctx context.Context) {
	for _, a := range p.stage.Fleet.Agents() {
		pods := p.stage.Client.CoreV1().Pods(a.Pod.Namespace)
		var err error
		switch locked := p.sessions[a.UID]; {
		case !locked && jobs(a) > 0:
			lock := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{"app":"%s-session",%q:"true"}}}`, a.UID, lab.AgentName, sessionLabel)
			if _, err = pods.Patch(ctx, a.Pod.Name, types.MergePatchType, lock, metav1.PatchOptions{}); err == nil {
				p.sessions[a.UID] = true
			}
		case locked && jobs(a) == 0 && !a.Draining:
			err = pods.Delete(ctx, a.Pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(a.UID))})
		}
		if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			p.fail("a session of pod %s cannot be locked, or ended: %v", a.Pod, err)
		}
	}
}
