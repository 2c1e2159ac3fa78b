// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/callguard/callguard/test/lab"
)

const (
	// kubernetesGrace is the termination grace period of a pod that sets none.
	kubernetesGrace = 30
	// talk is how long callers keep talking once the script has begun. A call is longer than
	// the grace period wherever that matters.
	talk = 50 * time.Second
)

// TestBaseline plays the same scripts with the guard and with what people use today, a
// PodDisruptionBudget with minAvailable 1. The agents are the same: on SIGTERM they
// accept no new call and keep working, within their grace period.
func TestBaseline(t *testing.T) {
	t.Parallel()
	scripts := []struct {
		name string
		play func(*story) *command
	}{
		{"drain", func(s *story) *command { return s.drain(s.nodes[0]) }},
		{"rollout", func(s *story) *command {
			s.rollOut("deployment", newImage)
			return s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=2m")
		}},
		{"scale-down", func(s *story) *command { return s.start("scale", "deployment/"+lab.AgentName, "--replicas=2") }},
	}
	stages := map[string]func(*testing.T, int) *story{"guard": tell, "plain": tellPlain}
	for _, script := range scripts {
		t.Run(script.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			dropped := map[string]int{}
			t.Run("with", func(t *testing.T) {
				for name, tellIt := range stages {
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						n := compare(tellIt(t, 2), script.play)
						mu.Lock()
						defer mu.Unlock()
						dropped[name] = n
					})
				}
			})
			t.Logf("dropped calls: %s: guard %d, plain PDB %d", script.name, dropped["guard"], dropped["plain"])
			if dropped["guard"] != 0 || dropped["plain"] == 0 {
				t.Errorf("dropped calls: %v; want none with the guard and some without, else this compares nothing", dropped)
			}
		})
	}
}

// compare plays a script during six calls and returns how many were dropped.
func compare(s *story, play func(*story) *command) int {
	s.t.Helper()
	s.deploy(6, func(d *appsv1.Deployment) {
		grace := int64(kubernetesGrace)
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
	})
	s.fill()
	script := play(s)
	over := time.Now().Add(talk)
	s.eventually(talk+soon, "the callers have said it all", func() (bool, error) { return time.Now().After(over), nil })
	s.hangUpAll()
	s.ends(script, inTime)
	r := s.callers.Report()
	if r.Answered != 6 {
		s.t.Errorf("%d calls were answered; want 6", r.Answered)
	}
	return len(r.Dropped)
}
