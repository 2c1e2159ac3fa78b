// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// failsToMount is a kubelet's message about a volume.
const failsToMount = `MountVolume.SetUp failed for volume "keys" : `

// TestCannotMount: only failed mounts that somebody has to fix are reported.
func TestCannotMount(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, message, want string
		phase                 corev1.PodPhase
	}{
		"Secret":    {reason: "It is missing.", message: failsToMount + `secret "voice-keys" not found`, want: `volume keys cannot be mounted: secret "voice-keys" not found`},
		"ConfigMap": {reason: "So may a ConfigMap be.", message: failsToMount + `configmap "prompts" not found`, want: `volume keys cannot be mounted: configmap "prompts" not found`},
		"Key":       {reason: "Or one of its keys.", message: failsToMount + `references non-existent secret key: api-key`, want: `volume keys cannot be mounted: references non-existent secret key: api-key`},
		"Projected": {reason: "Or one of several sources.", message: failsToMount + `[secret "a" not found, configmap "b" not found]`, want: `volume keys cannot be mounted: secret "a" not found`},
		"Slow":      {reason: "The kubelet will have it in a moment.", message: failsToMount + `failed to sync secret cache: timed out waiting for the condition`},
		"Disk":      {reason: "A disk is none of callguard's business.", message: `MountVolume.MountDevice failed for volume "pvc-1" : rpc error: code = Internal`},
		"Started":   {reason: "It keeps running with the old mount.", message: failsToMount + `secret "voice-keys" not found`, phase: corev1.PodRunning},
		"Foreign":   {reason: "Anybody may write Events.", message: failsToMount + `secret "<b>look\x1b[0m" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}
			if tc.phase != "" {
				pod.Status.Phase = tc.phase
			}
			if got := CannotMount(pod, tc.message); got != tc.want {
				t.Errorf("%s %q; want %q", tc.reason, got, tc.want)
			}
		})
	}
}

// TestMountEvents: a workload whose pods lack what they mount gets one Event, whatever else kubelets
// report.
func TestMountEvents(t *testing.T) {
	creating := onPod(func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} })
	g, client := newGuard(t, enabledNamespace(), newDeployment("web", 3), newReplicaSet("1", 3), webPod("a", creating), webPod("b", creating), webPod("runs"))
	told := hear(g)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watchMounts(ctx, client, g.cannotMount) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	say := func(name, pod, uid, message string) {
		t.Helper()
		_, err := client.CoreV1().Events(voice).Create(ctx, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name}, Reason: "FailedMount", Message: message,
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: voice, Name: pod, UID: types.UID(uid)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	const missing = failsToMount + `secret "voice-keys" not found`
	say("1", "a", "of-before", missing)
	say("2", "runs", "runs", missing)
	say("3", "a", "a", failsToMount+"it is busy")
	say("4", "a", "a", missing)
	say("5", "b", "b", missing)
	say("6", "b", "b", failsToMount+`configmap "prompts" not found`)
	var got []string
	eventually(t, "the last is told", func() bool { got = told(); return len(got) > 1 })
	want := []string{
		`Warning CannotStart on Deployment voice/web: pods such as a cannot start: volume keys cannot be mounted: secret "voice-keys" not found; they are not replaced, and a drain waits for them; create what is missing`,
		`Warning CannotStart on Deployment voice/web: pods such as b cannot start: volume keys cannot be mounted: configmap "prompts" not found; they are not replaced, and a drain waits for them; create what is missing`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Events: -want, +got:\n%s", diff)
	}
}

// TestTrimOfLargeMounts: little is kept of an Event that anybody may have written.
func TestTrimOfLargeMounts(t *testing.T) {
	trimmed, err := trimMount(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "large", Annotations: map[string]string{"note": strings.Repeat("x", 200<<10)}},
		Message:    failsToMount + strings.Repeat("x", 1<<20) + ` secret "voice-keys" not found`,
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(trimmed)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 1<<10 {
		t.Errorf("%d bytes are kept; want 1 KiB at most", len(raw))
	}
}
