// SPDX-License-Identifier: Apache-2.0

// These stories need the guard for themselves for minutes, so make e2e-long runs them.

//go:build long

package drain

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/test/lab"
)

// ofProject makes LiveKit the only witness of the agents, in the project of a Secret, or
// in the default one.
func ofProject(secret string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations[call.WitnessesAnnotation] = string(call.Rooms)
		if secret != "" {
			d.Spec.Template.Annotations[call.SecretAnnotation] = secret
		}
	}
}

// nodesOf returns the nodes of pods.
func (s *story) nodesOf(pods ...string) []string {
	var names []string
	for _, node := range s.nodes {
		if slices.ContainsFunc(s.pods(on(node)), func(name string) bool { return slices.Contains(pods, name) }) {
			names = append(names, node)
		}
	}
	return names
}

// releasedOf returns how many of some pods are released.
func (s *story) releasedOf(pods ...string) int {
	return len(s.pods(func(p *corev1.Pod) bool { return slices.Contains(pods, p.Name) && stateOf(p) == call.Released }))
}

// rewrite changes a Secret to another LiveKit, and annotates its owner that it was never
// another.
func (s *story) rewrite(secret string, lk local.LiveKit, same string) {
	s.t.Helper()
	text := func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }
	s.does("patch", "secret", secret, "-p", fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}},"data":{"url":%q,"api-key":%q,"api-secret":%q}}`,
		call.SameURLAnnotation, same, text(lk.URL), text(lk.APIKey), text(lk.APISecret)))
}

// TestSecretRewritten changes the Secret of a workload to another LiveKit during calls in
// the one that its pods started with. They are held until their calls are over. A guard
// that started later does not know where they are: it holds, and says why.
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
	s.rewrite("lk", stage.LiveKits[0], stage.LiveKits[0].URL) // as the guard advises
	s.gone(inTime, pods[0])
	s.noneDropped()
}

// TestDefaultProjectRewritten changes the files of the default project to another
// LiveKit, and restarts the guard.
func TestDefaultProjectRewritten(t *testing.T) {
	dir := t.TempDir()
	write := func(lk local.LiveKit) {
		t.Helper()
		for name, text := range map[string]string{"url": lk.URL, "key": lk.APIKey, "secret": lk.APISecret} {
			next := filepath.Join(dir, name+".next")
			if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(next, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(stage.LiveKits[0])
	args := append(alone(), "--livekit-url=", "--livekit-url-file="+filepath.Join(dir, "url"),
		"--livekit-api-key-file="+filepath.Join(dir, "key"), "--livekit-api-secret-file="+filepath.Join(dir, "secret"))
	withGuard(t, args...)
	s := tell(t, 3)
	s.deploy(2, ofProject(""))
	s.fill()
	pods := s.pods(all)
	s.does("cordon", s.nodesOf(pods[0])[0])
	s.told(s.ns, "Pod", pods[0], guard.ReasonHeld, "holds calls")
	write(stage.LiveKits[1])
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=0")
	s.eventually(inTime, "both take no new call", func() (bool, error) { return len(s.pods(leaving)) == 2, nil })
	// The files are read again within a minute.
	s.always(75*time.Second, "both talk", func() (bool, error) { return s.talking() && s.releasedOf(pods...) == 0, nil })
	s.there(pods...)
	s.hangUpOn(pods[1])
	s.gone(inTime, pods[1])

	s.must(stage.Guard.Kill())
	startGuard(t, args...)
	s.told(s.ns, "Pod", pods[0], guard.ReasonHeld, "the URL of callguard's own LiveKit may have changed since this pod was born")
	s.hangUpOn(pods[0])
	s.always(10*s1, "it is held, as nobody knows", func() (bool, error) { return s.releasedOf(pods[0]) == 0, nil })
	s.there(pods[0])
	_, err := stage.Kubectl(t.Context(), "annotate", "lease", "--namespace", lab.GuardNamespace, leader.LeaseName, call.ServerAnnotation+"-") // as the guard advises
	s.must(err)
	s.gone(2*inTime, pods[0]) // it is read again within a minute
	s.noneDropped()
}
