// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
)

// ofProject has LiveKit alone asked about the agents, in the project of a Secret, or in
// the default one.
func ofProject(secret string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations[call.WitnessesAnnotation] = string(call.Rooms)
		if secret != "" {
			d.Spec.Template.Annotations[call.SecretAnnotation] = secret
		}
	}
}

// nodesOf are the nodes of pods.
func (s *story) nodesOf(pods ...string) []string {
	var names []string
	for _, node := range s.nodes {
		if slices.ContainsFunc(s.pods(on(node)), func(name string) bool { return slices.Contains(pods, name) }) {
			names = append(names, node)
		}
	}
	return names
}

// releasedOf is how many of some pods are released.
func (s *story) releasedOf(pods ...string) int {
	return len(s.pods(func(p *corev1.Pod) bool { return slices.Contains(pods, p.Name) && stateOf(p) == call.Released }))
}

// rewrite has a Secret name another LiveKit, and its owner say that it was never another.
func (s *story) rewrite(secret string, lk local.LiveKit, same string) {
	s.t.Helper()
	text := func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }
	s.does("patch", "secret", secret, "-p", fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}},"data":{"url":%q,"api-key":%q,"api-secret":%q}}`,
		call.SameURLAnnotation, same, text(lk.URL), text(lk.APIKey), text(lk.APISecret)))
}

// TestSecretRewritten has the Secret of a workload name another LiveKit while calls are
// up in the one that its pods were born with. They are held until their calls are over.
// A guard that has come since does not know where they are: it holds, and says why.
func TestSecretRewritten(t *testing.T) {
	withGuard(t, alone()...)
	s := tell(t, 3)
	s.must(stage.Secret(t.Context(), s.ns, "lk", stage.LiveKits[0]))
	s.deploy(2, ofProject("lk"))
	s.fill()
	pods := s.pods(all)
	first, second := s.nodesOf(pods[0]), s.nodesOf(pods[1])
	s.does("cordon", first[0])
	s.told(s.ns, "Pod", pods[0], guard.ReasonHeld, "holds calls")

	s.rewrite("lk", stage.LiveKits[1], "")
	if second[0] != first[0] {
		s.does("cordon", second[0])
	}
	s.eventually(inTime, "both take no new call", func() (bool, error) {
		return len(s.pods(func(p *corev1.Pod) bool { return slices.Contains(pods, p.Name) && leaving(p) })) == 2, nil
	})
	s.always(10*s1, "both talk", func() (bool, error) { return s.talking() && s.releasedOf(pods...) == 0, nil })
	s.there(pods...)
	s.hangUpOn(pods[1])
	s.gone(inTime, pods[1])
	s.there(pods[0])

	s.must(stage.Guard.Kill())
	startGuard(t, alone()...)
	s.told(s.ns, "Pod", pods[0], guard.ReasonHeld, "may have changed since this pod was born")
	s.hangUpOn(pods[0])
	s.always(10*s1, "it is held, as nobody knows", func() (bool, error) { return s.releasedOf(pods[0]) == 0, nil })
	s.there(pods[0])
	s.rewrite("lk", stage.LiveKits[0], stage.LiveKits[0].URL) // what the guard says to do
	s.gone(inTime, pods[0])
	s.noneDropped()
}
