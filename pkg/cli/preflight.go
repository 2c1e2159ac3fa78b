// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
)

// leaderWithin is the maximum time until a guard renews its lease, which it does every 2 s,
// or until the next guard takes it over.
const leaderWithin = 12 * time.Second

// triesOfTheDoor is on how many pods the delete policy is tried, if others refuse first.
const triesOfTheDoor = 5

// preflight returns why a drain of these pods could lose a call, or hang forever. Something
// that cannot be read is a reason, too, except whether a guard leads: that loses no call
// and is only a note. unprotected has the namespaces that are not enabled, in which no call
// of these pods is protected. They are a reason unless giveUp is set.
func (c *cluster) preflight(ctx context.Context, a administered, pods []*corev1.Pod, giveUp bool) (refusals, notes []string, unprotected map[string]string) {
	unprotected = map[string]string{}
	refuse := func(format string, args ...any) { refusals = append(refusals, oneLine(fmt.Sprintf(format, args...))) }
	guarded := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !isGuarded(p) })
	if c.absent(ctx, a) {
		f := notInstalled(a, guarded)
		refuse("callguard cannot hold a call here: %s; %s", f.what, f.do)
		return refusals, notes, unprotected
	}
	if _, err := admission.Check(ctx, c.client, a.doors); err != nil {
		refuse("callguard's admission policies are not known to be in effect, so a call could be lost: %v; %s", err, doorsCure(err, a))
	}
	switch _, err := leader.Find(ctx, c.client, c.callguard, leaderWithin); {
	case errors.Is(err, leader.ErrNone):
		refuse("%v, so guarded pods would be held forever; see Deployment %s/%s, or set --callguard-namespace", err, c.callguard, call.GuardName)
	case err != nil:
		notes = append(notes, "whether a drain-guard leads is not known: "+line(err))
	}
	var names []string
	for _, pod := range guarded {
		if !slices.Contains(names, pod.Namespace) {
			names = append(names, pod.Namespace)
		}
	}
	enabled, err := c.optIns(ctx, names)
	if err != nil {
		refuse("%v", err)
		return refusals, notes, unprotected
	}
	for _, name := range names {
		mine := slices.DeleteFunc(slices.Clone(guarded), func(p *corev1.Pod) bool { return p.Namespace != name })
		if is := enabled[name]; !is.on {
			unprotected[name] = is.off(name)
			if !giveUp {
				refuse("%s, so nothing holds the calls of its guarded pods, such as %s; an administrator enables it: %s; to end the calls of %s, and go on: --%s",
					is.off(name), mine[0].Name, is.enable(name), plural(len(mine), "pod"), unprotectedFlag)
			}
			guarded = slices.DeleteFunc(guarded, func(p *corev1.Pod) bool { return p.Namespace == name })
			continue
		}
		for _, wrong := range c.lockFaults(ctx, name, mine) {
			refuse("%s", wrong)
		}
	}
	if len(refusals) == 0 {
		if err := c.tryDoor(ctx, a, guarded); errors.Is(err, admission.ErrNotTried) {
			notes = append(notes, "policy callguard-delete exists, and was not tried: "+line(err))
		} else if err != nil {
			refuse("%v, so a call could be lost; kubectl calls doctor says more", err)
		}
	}
	return refusals, notes, unprotected
}

// doorsCure returns what to do about policies that are not known to be in effect.
func doorsCure(err error, a administered) string {
	switch {
	case forbidden(err):
		return "you need the right to get them"
	case a.note != "":
		return "apply the chart again (" + a.note + ")"
	default:
		return "apply the chart again"
	}
}

// lockFaults returns why the guarded pods of an enabled namespace are not locked, or cannot
// be evicted.
func (c *cluster) lockFaults(ctx context.Context, namespace string, guarded []*corev1.Pod) (faults []string) {
	budgets, err := c.budgets(ctx, namespace)
	if err != nil {
		return []string{line(err)}
	}
	locks := fmt.Errorf("PodDisruptionBudget %s/%s is missing", namespace, guard.BudgetName)
	for _, pdb := range budgets {
		if pdb.Name == guard.BudgetName {
			locks = guard.BudgetLocks(pdb)
		}
	}
	if locks != nil {
		faults = append(faults, fmt.Sprintf("%v, so calls could be lost; the drain-guard makes it: see its log", locks))
	}
	for _, f := range guard.ForeignBudgets(budgets, guarded) {
		faults = append(faults, fmt.Sprintf("PodDisruptionBudget %s/%s matches guarded pods, such as %s, beside callguard's: Kubernetes answers 500 to the eviction of a pod with two, and a drain gives up; delete it, and use annotation %s of the workload",
			namespace, f.Budget.Name, f.Pod.Name, call.MinAvailableAnnotation))
	}
	for _, pod := range guarded {
		switch {
		case pod.Labels[call.ReleasedLabel] == string(call.Unlock):
			faults = append(faults, fmt.Sprintf("pod %s/%s was unlocked, so nothing holds its calls; replace it first: kubectl rollout restart", namespace, pod.Name))
		case pod.Status.Phase == corev1.PodPending && admission.Locked(pod):
			faults = append(faults, fmt.Sprintf("pod %s/%s is Pending while a container of it runs, and Kubernetes evicts Pending pods past every budget; wait until all its containers have started", namespace, pod.Name))
		}
	}
	return faults
}

// tryDoor tries the delete policy on a locked pod, if there is one.
func (c *cluster) tryDoor(ctx context.Context, a administered, guarded []*corev1.Pod) error {
	locked := slices.DeleteFunc(slices.Clone(guarded), func(p *corev1.Pod) bool { return !admission.Locked(p) })
	if len(locked) == 0 {
		return nil
	}
	if c.memberOf(ctx, a.doors.BreakGlassGroup) {
		return fmt.Errorf("%w: you are a member of %s, whom it lets through", admission.ErrNotTried, a.doors.BreakGlassGroup)
	}
	return admission.TryDelete(ctx, c.client, locked[:min(len(locked), triesOfTheDoor)])
}

// refusedBy returns the budget that refuses the eviction of an unguarded pod; empty if none
// does.
func refusedBy(budgets []*policyv1.PodDisruptionBudget, pod *corev1.Pod) string {
	for _, pdb := range budgets {
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) && pdb.Status.DisruptionsAllowed == 0 {
			return fmt.Sprintf("not guarded; its own PodDisruptionBudget %s allows no disruption now", pdb.Name)
		}
	}
	return ""
}
