// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// candidateTaint is Cluster Autoscaler's mark of an unneeded node: the pods of all marked
// nodes would fit on the others. It removes the mark when that changes.
const candidateTaint = "DeletionCandidateOfClusterAutoscaler"

// noticeTaints returns the taints which announce that a node ends within minutes, whatever runs
// on it. docs/node-autoscalers.md lists who sets them, and how much time is left.
func noticeTaints() []string {
	return []string{
		"aws-node-termination-handler/spot-itn",
		"aws-node-termination-handler/scheduled-maintenance",
		"aws-node-termination-handler/asg-lifecycle-termination",
		"cloud.google.com/impending-node-termination",
		"remediator.kubernetes.azure.com/unschedulable",
		"cloudprovider.azure.microsoft.com/draining",
	}
}

// noticeConditions returns node conditions with the same meaning, which AKS sets.
// FreezeScheduled is not among them: a machine that pauses for seconds keeps its calls.
func noticeConditions() []corev1.NodeConditionType {
	return []corev1.NodeConditionType{"PreemptScheduled", "PreemptionScheduled", "TerminateScheduled", "RedeployScheduled", "RebootScheduled"}
}

// onlyNotices returns the conditions that are such a notice.
func onlyNotices(conditions []corev1.NodeCondition) (list []corev1.NodeCondition) {
	for _, c := range conditions {
		if c.Status == corev1.ConditionTrue && slices.Contains(noticeConditions(), c.Type) {
			list = append(list, corev1.NodeCondition{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime})
		}
	}
	return list
}

// noticeOf returns the taint or condition which announces that a node ends within minutes,
// whatever runs on it; empty if there is none.
func noticeOf(node *corev1.Node) string {
	for _, taint := range node.Spec.Taints {
		if slices.Contains(noticeTaints(), taint.Key) {
			return "taint " + taint.Key
		}
	}
	for _, c := range onlyNotices(node.Status.Conditions) {
		return "condition " + string(c.Type)
	}
	return ""
}

func conditionOf(node *corev1.Node, c corev1.NodeCondition) occasion {
	return occasion{of: node.UID, fact: noticed, key: string(c.Type)}
}

// goes returns when it was first seen that a node ends for certain: it was given notice, or is
// being deleted, which node autoscalers do not take back.
func goes(node *corev1.Node, seen func(occasion, *metav1.Time) time.Time) (since time.Time) {
	enter := func(at time.Time) {
		if since.IsZero() || at.Before(since) {
			since = at
		}
	}
	for _, taint := range node.Spec.Taints {
		if slices.Contains(noticeTaints(), taint.Key) {
			enter(seen(taintOf(node, taint), taint.TimeAdded))
		}
	}
	for _, c := range onlyNotices(node.Status.Conditions) {
		var said *metav1.Time
		if !c.LastTransitionTime.IsZero() {
			said = &c.LastTransitionTime
		}
		enter(seen(conditionOf(node, c), said))
	}
	if node.DeletionTimestamp != nil {
		enter(seen(occasion{of: node.UID, fact: isDeleted}, node.DeletionTimestamp))
	}
	return since
}

// candidateSince returns when Cluster Autoscaler's mark of a node was first seen; zero if
// there is none.
func candidateSince(node *corev1.Node, seen func(occasion, *metav1.Time) time.Time) time.Time {
	for _, taint := range node.Spec.Taints {
		if taint.Key == candidateTaint {
			return seen(taintOf(node, taint), taint.TimeAdded)
		}
	}
	return time.Time{}
}

// terminationAnnotation has the time at which Karpenter ends a node that has a
// terminationGracePeriod, whatever runs on it.
const terminationAnnotation = "karpenter.sh/nodeclaim-termination-timestamp"

// letGoAhead is how much earlier than its grace period has to begin a pod is released before
// the end of its node: it has to stop taking calls first, and whoever evicts it has to
// notice.
const letGoAhead = time.Minute

// nodeEnds returns that time; zero if there is none.
func nodeEnds(node *corev1.Node) time.Time {
	at, err := time.Parse(time.RFC3339, node.Annotations[terminationAnnotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

// letGoBy returns when a pod has to be released so that its grace period ends before its
// node does. This is the only decision by a time from another machine's clock, and only if
// an administrator wants it, because there is no other way to know that time.
func letGoBy(pod *corev1.Pod, ends time.Time) time.Time {
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	return ends.Add(-time.Duration(grace)*time.Second - letGoAhead)
}

// aboutNode returns a note about a member's node for people, in addition to why the member
// should go; empty if there is nothing to add.
func (j judgement) aboutNode() string {
	if j.facts.Notice != "" {
		return fmt.Sprintf("; its node goes within minutes (%s), and calls that last longer end with it", j.facts.Notice)
	}
	switch ends := j.facts.NodeEnds; {
	case ends.IsZero():
		return ""
	case j.facts.LetGoBy.IsZero():
		return fmt.Sprintf("; Karpenter's terminationGracePeriod of its node ends %s, and the node waits for its calls all the same", ends.UTC().Format(time.RFC3339))
	default:
		return fmt.Sprintf("; Karpenter's terminationGracePeriod of its node ends %s, and it is released in time for that, with its calls (--node-termination-limit)", ends.UTC().Format(time.RFC3339))
	}
}
