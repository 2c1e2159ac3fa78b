// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
)

// keepsData reports whether data in an emptyDir volume would be lost with a pod. The
// journal of a call-gate does not count: it has the pod's own calls, which have ended by
// then.
func keepsData(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.EmptyDir != nil && !isJournal(pod, v.Name) })
}

// isJournal reports whether a volume of a guarded pod is only mounted by a call-gate, as
// its journal.
func isJournal(pod *corev1.Pod, volume string) bool {
	if !isGuarded(pod) || pod.Annotations[call.GatePortAnnotation] == "" {
		return false
	}
	found := false
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, m := range c.VolumeMounts {
			if m.Name != volume {
				continue
			}
			if m.MountPath == "" || path.Clean(m.MountPath) != journalOf(c) {
				return false
			}
			found = true
		}
	}
	return found
}

// journalOf returns the folder of a call-gate's journal; empty if a container is not a
// call-gate, or has no journal.
func journalOf(c corev1.Container) string {
	words := slices.Concat(c.Command, c.Args)
	for i, word := range words {
		if folder, is := strings.CutPrefix(word, "--journal="); is && folder != "" {
			return path.Clean(folder)
		}
		if word == "--journal" && i+1 < len(words) {
			return path.Clean(words[i+1])
		}
	}
	return ""
}
