// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMistakesOfATrimmedPod: the trimmed pod in the informers is enough to find its
// mistakes.
func TestMistakesOfATrimmedPod(t *testing.T) {
	initWithoutKey := onPod(func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "call-gate", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: configError, Message: "couldn't find key api-key in Secret voice/livekit",
		}}}}
	})
	starting := onPod(func(p *corev1.Pod) {
		withoutSecret(p)
		p.Status.ContainerStatuses[0].State.Waiting.Reason = "ContainerCreating"
	})
	for name, tc := range map[string]struct {
		change      edit
		mistakes    int
		cannotStart string
	}{
		"None":         {change: func(metav1.Object) {}},
		"Gate":         {change: withGate, mistakes: 1},
		"Helper":       {change: withHelper, mistakes: 1},
		"Secret":       {change: withoutSecret, cannotStart: `container agent cannot be created: secret "voice-secrets" not found`},
		"Key":          {change: initWithoutKey, cannotStart: "container call-gate cannot be created: couldn't find key api-key in Secret voice/livekit"},
		"OnlyStarting": {change: starting},
	} {
		t.Run(name, func(t *testing.T) {
			whole := webPod("a", tc.change)
			trimmed := whole.DeepCopy()
			trimPod(trimmed)
			if len(mistakes(whole)) != tc.mistakes || CannotStart(whole) != tc.cannotStart {
				t.Errorf("it says %q and %q", mistakes(whole), CannotStart(whole))
			}
			if diff := cmp.Diff(append(mistakes(whole), CannotStart(whole)), append(mistakes(trimmed), CannotStart(trimmed))); diff != "" {
				t.Errorf("of a trimmed pod it says something else (-whole +trimmed):\n%s", diff)
			}
		})
	}
}

// TestTrimBoundsWhatTheKubeletSays: names in a kubelet's message may be as long as their
// owners like.
func TestTrimBoundsWhatTheKubeletSays(t *testing.T) {
	pod := webPod("a", withoutSecret)
	pod.Status.ContainerStatuses[0].State.Waiting.Message = strings.Repeat("x", 100<<10)
	trimPod(pod)
	if n := len(pod.Status.ContainerStatuses[0].State.Waiting.Message); n > maxConfigError+len("…") {
		t.Errorf("%d bytes are kept of what the kubelet says", n)
	}
}
