// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
)

// What pods tell node autoscalers.
const (
	doNotDisrupt = "karpenter.sh/do-not-disrupt"
	safeToEvict  = "cluster-autoscaler.kubernetes.io/safe-to-evict"
)

// KarpenterTaint is the taint of a node that Karpenter takes away.
const KarpenterTaint = "karpenter.sh/disrupted"

// BearsDisruption reports whether a pod tolerates it: Karpenter neither evicts such a pod
// nor waits for it.
func BearsDisruption(pod *corev1.Pod) bool {
	_, tolerated := tolerates(pod, corev1.Taint{Key: KarpenterTaint, Effect: corev1.TaintEffectNoSchedule})
	return tolerated
}

// leaving is what a pod that is aside tells them: nobody seeks room for it elsewhere, and
// its node goes when it has ended. Karpenter would make a node for it beside the one for
// its replacement, and Cluster Autoscaler not take its node at all.
func leaving() map[string]string {
	return map[string]string{doNotDisrupt: "true", safeToEvict: "on-completion"}
}

// autoscalerAnnotations are the annotations that leaving may change.
func autoscalerAnnotations() []string { return slices.Sorted(maps.Keys(leaving())) }

// longestKept bounds the values that are remembered: autoscalers know none that is longer, or
// has a comma.
const longestKept = 32

// tellLeaving adds to a change of a pod's annotations what it tells autoscalers while it is
// aside, and what it told them before.
func tellLeaving(pod *corev1.Pod, annotations map[string]*string) {
	var before []string
	for _, key := range autoscalerAnnotations() {
		is, tells := pod.Annotations[key], leaving()[key]
		if is == tells {
			continue // its owner's word, which stays
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

// tellAgain adds to a change what takes tellLeaving back. What somebody else has written
// meanwhile stays. A pod that an autoscaler may evict must not say that it may not:
// Karpenter would wait for it.
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
