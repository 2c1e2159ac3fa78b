// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
)

// Annotations by which pods inform node autoscalers.
const (
	doNotDisrupt = "karpenter.sh/do-not-disrupt"
	safeToEvict  = "cluster-autoscaler.kubernetes.io/safe-to-evict"
)

// KarpenterTaint is the taint of a node that Karpenter removes.
const KarpenterTaint = "karpenter.sh/disrupted"

// BearsDisruption reports whether a pod tolerates KarpenterTaint. Karpenter neither evicts
// such a pod nor waits for it.
func BearsDisruption(pod *corev1.Pod) bool {
	_, tolerated := tolerates(pod, corev1.Taint{Key: KarpenterTaint, Effect: corev1.TaintEffectNoSchedule})
	return tolerated
}

// leaving returns the annotations of a pod that is aside. They say that no other node is
// needed for it, and that its node can go when it has ended. Without them Karpenter would
// add a node for it in addition to the one for its replacement, and Cluster Autoscaler
// would never remove its node.
func leaving() map[string]string {
	return map[string]string{doNotDisrupt: "true", safeToEvict: "on-completion"}
}

// autoscalerAnnotations returns the keys of the annotations that leaving may change.
func autoscalerAnnotations() []string { return slices.Sorted(maps.Keys(leaving())) }

// longestKept is the maximum length of values that are remembered: autoscalers know none that
// is longer or has a comma.
const longestKept = 32

// tellLeaving adds to a change of a pod's annotations those of leaving, and remembers their
// former values.
func tellLeaving(pod *corev1.Pod, annotations map[string]*string) {
	var before []string
	for _, key := range autoscalerAnnotations() {
		is, tells := pod.Annotations[key], leaving()[key]
		if is == tells {
			continue // set by its owner, so it stays
		}
		annotations[key] = &tells
		if len(is) > longestKept || strings.Contains(is, ",") {
			is = ""
		}
		before = append(before, key+"="+is)
	}
	note := strings.Join(before, ",")
	annotations[call.ToldBeforeAnnotation] = &note
}

// tellAgain adds to a change what reverts tellLeaving. Values that somebody else has
// written since stay. It is needed because Karpenter waits for a pod that says that it may
// not be disrupted, even if the pod may be evicted.
func tellAgain(pod *corev1.Pod, annotations map[string]*string) {
	note, told := pod.Annotations[call.ToldBeforeAnnotation]
	if !told {
		return
	}
	annotations[call.ToldBeforeAnnotation] = nil
	for entry := range strings.SplitSeq(note, ",") {
		key, before, _ := strings.Cut(entry, "=")
		if tells := leaving()[key]; tells == "" || pod.Annotations[key] != tells {
			continue
		}
		annotations[key] = nil
		if before != "" {
			annotations[key] = &before
		}
	}
}
