// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// gated deploys agents with a timing behind gates of a kind.
func gated(timing map[string]string, kind string, probes bool) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		maps.Copy(d.Spec.Template.Annotations, timing)
		lab.Gated(&d.Spec.Template, kind, probes)
		all, none := intstr.FromString("100%"), intstr.FromInt32(0)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &all, MaxUnavailable: &none}
	}
}

// hearGates checks everything that the gates of the story's pods publish, until the story ends.
func (s *story) hearGates() {
	ctx, stop := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			for _, a := range s.agents() {
				for _, page := range []string{"/metrics", "/readyz", "/healthz"} {
					if a.Gate != "" {
						_ = stage.HearPage(ctx, a.Gate+page) // the gate may have ended
					}
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Second):
			}
		}
	})
	s.t.Cleanup(func() { stop(); done.Wait() })
}

// TestRolloutWithAWrongKey gives the agents a Secret whose key LiveKit refuses (case P6). The old ones keep serving,
// and people are told which Secret it is, whether or not the pods have readiness probes.
func TestRolloutWithAWrongKey(t *testing.T) {
	t.Parallel()
	for name, probes := range map[string]bool{"Probed": true, "ReadyFromTheirStart": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, 2)
			right, wrong := stage.LiveKits[0], stage.LiveKits[0]
			wrong.APISecret = "planted-" + s.ns + "-that-is-long-enough-for-a-key"
			s.must(stage.Secret(t.Context(), s.ns, "livekit", right))
			s.must(stage.Secret(t.Context(), s.ns, "livekit-next", wrong))
			s.deploy(3, gated(map[string]string{call.SecretAnnotation: "livekit", fleet.MaxJobsAnnotation: "5"}, lab.GateKind, probes))
			s.hearGates()
			s.first(3)
			old := s.pods(all)

			s.does("patch", "deployment/"+lab.AgentName, "--patch",
				fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{%q:"livekit-next"}}}}}`, call.SecretAnnotation))
			next := func(p *corev1.Pod) bool { return p.Annotations[call.SecretAnnotation] == "livekit-next" }
			s.eventually(inTime, "new pods run", func() (bool, error) {
				return len(s.pods(func(p *corev1.Pod) bool { return next(p) && runs(p) })) > 0, nil
			})
			for range 6 {
				s.always(5*s1, "the old pods take calls", func() (bool, error) {
					return len(s.pods(func(p *corev1.Pod) bool { return !next(p) && ready(p) && !leaving(p) })) == len(old) && s.talking(), nil
				})
				s.dial(1)
			}
			s.there(old...)
			s.eventually(soon, "why names the Secret, of a pod of either revision", func() (bool, error) {
				var said string
				for _, pod := range s.pods(all) {
					out, errOut, _ := calls(t, "why", pod, "-n", s.ns)
					// If Kubernetes itself stops the rollout, no pod should leave, and why shows the reason of the unknown number.
					held := strings.Contains(out, "LiveKit refuses the key of Secret "+s.ns+"/livekit-next")
					if held || probes && strings.Contains(out, s.ns+"/livekit-next") && strings.Contains(out, "401 Unauthorized") {
						return true, nil
					}
					said += out + errOut
				}
				return shown(false, said)
			})

			s.does("rollout", "undo", "deployment/"+lab.AgentName)
			// Their rooms cannot be read with that key, so they may be held until their workers give LiveKit up, after 130 s.
			s.eventually(6*inTime, "the new pods are gone", func() (bool, error) { return shown(len(s.pods(next)) == 0, s.watch.describe()) })
			s.dial(1)
			s.hangUpAll()
			s.noneDropped()
		})
	}
}
