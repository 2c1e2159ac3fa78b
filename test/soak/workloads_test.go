// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/lab"
)

const (
	// shrinkAfter is for how long fewer calls must have been enough for the HPA to shrink its workload.
	shrinkAfter = 15 * time.Second
	// graceEnds is how long after the end of a pod's grace its calls may be found lost.
	graceEnds = Offset(10 * time.Second)
)

// autoscale has an HPA scale one workload on its calls.
func (p *player) autoscale(ctx context.Context) error {
	hpa := lab.Autoscaler(namespaceOf(Scaled), mostReplicas, lab.ObjectForm(), shrinkAfter)
	*hpa.Spec.MinReplicas = leastReplicas
	if _, err := p.stage.Client.AutoscalingV2().HorizontalPodAutoscalers(hpa.Namespace).Create(ctx, hpa, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot have %s scaled: %w", Scaled, err)
	}
	return nil
}

// wanted is how many pods a workload shall have, as people or its HPA said last.
func (p *player) wanted(ctx context.Context, workload string) (int, error) {
	if workload == Scaled {
		d, err := p.stage.Client.AppsV1().Deployments(namespaceOf(workload)).Get(ctx, lab.AgentName, metav1.GetOptions{})
		if err != nil {
			return 0, err
		}
		return int(*d.Spec.Replicas), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replicas[workload], nil
}

// optOut opts a workload's namespace out in the middle of its calls, and in again after the step's time, also when the run is over.
// Calls that end meanwhile, or with a pod that was deleted meanwhile, are given up.
func (p *player) optOut(ctx context.Context, s Step) (string, error) {
	if p.baseline != "" {
		return "", passedOver("nobody has opted in")
	}
	p.plane.Lock()
	defer p.plane.Unlock()
	if ctx.Err() != nil {
		return "", passedOver("the run was over before the fault before it was")
	}
	always, ns := context.WithoutCancel(ctx), namespaceOf(s.Workload)
	meta := func(kind, key, value string) error {
		return heard(always, func() error {
			_, err := p.stage.Client.CoreV1().Namespaces().Patch(always, ns, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{%q:{%q:%s}}}`, kind, key, value), metav1.PatchOptions{})
			return err
		})
	}
	p.mu.Lock()
	n := len(p.deeds)
	p.deeds = append(p.deeds, Deed{Outcome: LostWithoutGuard, Workload: s.Workload, From: p.now()})
	p.mu.Unlock()
	err := errors.Join(meta("annotations", call.DisableAnnotation, `"true"`), meta("labels", call.EnabledLabel, "null"))
	p.pause(ctx, s.For)
	err = errors.Join(err, meta("labels", call.EnabledLabel, `"true"`), meta("annotations", call.DisableAnnotation, "null"))
	err = errors.Join(err, lab.Eventually(always, healedWithin, "the pods of "+s.Workload+" are locked again", func() (bool, error) {
		pdb, err := p.stage.Client.PolicyV1().PodDisruptionBudgets(ns).Get(always, guard.BudgetName, metav1.GetOptions{})
		if err == nil {
			err = guard.BudgetLocks(pdb)
		}
		return err == nil, err
	}))
	pods, listErr := p.guarded(always, ns)
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := 0
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil { // which is when its grace is over
			gone++
			p.deeds = append(p.deeds, Deed{Outcome: LostWithoutGuard, Pod: pod.Name, From: p.deeds[n].From, To: Offset(pod.DeletionTimestamp.Sub(p.zero)) + graceEnds})
		}
	}
	p.deeds[n].To = p.now()
	return fmt.Sprintf("%s deleted meanwhile", many(gone, "pod")), errors.Join(err, listErr)
}

// givenUp reports whether a workload is opted out.
func (p *player) givenUp(workload string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return LostBy(CallRecord{Workload: workload, Ended: p.now()}, p.deeds) == LostWithoutGuard
}
