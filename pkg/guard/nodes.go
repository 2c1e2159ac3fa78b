// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

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
	switch ends := j.facts.NodeEnds; {
	case ends.IsZero():
		return ""
	case j.facts.LetGoBy.IsZero():
		return fmt.Sprintf("; Karpenter's terminationGracePeriod of its node ends %s, and the node waits for its calls all the same", ends.UTC().Format(time.RFC3339))
	default:
		return fmt.Sprintf("; Karpenter's terminationGracePeriod of its node ends %s, and it is let go in time for that, with its calls (--node-termination-limit)", ends.UTC().Format(time.RFC3339))
	}
}
