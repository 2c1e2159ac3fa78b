// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// candidateTaint is Cluster Autoscaler's mark of a node that nobody needs: the pods of all
// nodes it has marked would fit on the others. It takes the mark off when that changes.
const candidateTaint = "DeletionCandidateOfClusterAutoscaler"

// noticeTaints say that a node goes within minutes, whatever is on it. docs/node-autoscalers.md
// says who sets them, and how long they last.
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

// noticeConditions are conditions that say the same, as AKS has them. FreezeScheduled is none:
// a machine that pauses for seconds keeps its calls.
func noticeConditions() []corev1.NodeConditionType {
	return []corev1.NodeConditionType{"PreemptScheduled", "PreemptionScheduled", "TerminateScheduled", "RedeployScheduled", "RebootScheduled"}
}

// onlyNotices are those of a node's conditions that are such a notice.
func onlyNotices(conditions []corev1.NodeCondition) (list []corev1.NodeCondition) {
	for _, c := range conditions {
		if c.Status == corev1.ConditionTrue && slices.Contains(noticeConditions(), c.Type) {
			list = append(list, corev1.NodeCondition{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime})
		}
	}
	return list
}

// noticeOf is what says that a node goes within minutes, whatever is on it; empty where
// nothing does.
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

// goes is when a node was first seen to go for good: it was given notice, or is being deleted,
// which a node autoscaler does not think better of.
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

// candidateSince is when Cluster Autoscaler's mark of a node was first seen; zero where there
// is none.
func candidateSince(node *corev1.Node, seen func(occasion, *metav1.Time) time.Time) time.Time {
	for _, taint := range node.Spec.Taints {
		if taint.Key == candidateTaint {
			return seen(taintOf(node, taint), taint.TimeAdded)
		}
	}
	return time.Time{}
}

// terminationAnnotation is when Karpenter ends a node that has a terminationGracePeriod,
// whatever is on it.
const terminationAnnotation = "karpenter.sh/nodeclaim-termination-timestamp"

// letGoAhead is how long before its grace would have to begin a pod is let go for the end of
// its node: it stops taking calls first, and whoever takes it has to notice.
const letGoAhead = time.Minute

// nodeEnds is that time; zero where there is none.
func nodeEnds(node *corev1.Node) time.Time {
	at, err := time.Parse(time.RFC3339, node.Annotations[terminationAnnotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

// letGoBy is when a pod has to be let go so that its grace is over by then. It is the one
// time of another machine that anything is decided by, and only where an administrator
// wants that: there is no other way to know it.
func letGoBy(pod *corev1.Pod, ends time.Time) time.Time {
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	return ends.Add(-time.Duration(grace)*time.Second - letGoAhead)
}

// aboutNode says what is to be known of a member's node beside why the member should go;
// empty where there is nothing.
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
		return fmt.Sprintf("; Karpenter's terminationGracePeriod of its node ends %s, and it is let go in time for that, with its calls (--node-termination-limit)", ends.UTC().Format(time.RFC3339))
	}
}
