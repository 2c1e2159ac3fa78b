// SPDX-License-Identifier: Apache-2.0

// This story waits for minutes, so make e2e-long tells it.

//go:build long

package drain

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/lab"
)

// TestDefaultProjectRewritten has the files of the default project name another LiveKit,
// and the guard start again.
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
	_, err := stage.Kubectl(t.Context(), "annotate", "lease", "--namespace", lab.GuardNamespace, guard.LeaseName, guard.ServerAnnotation+"-") // what the guard says to do
	s.must(err)
	s.gone(2*inTime, pods[0]) // it is read again within a minute
	s.noneDropped()
}
