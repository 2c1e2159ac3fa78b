// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// TestUpgradeOfGates has pods with call-gates of a version that does not report whether its pod is able. They are drained as
// before, then rolled out to gates of this checkout, all during calls. make e2e-upgrade runs it with the real call-gate of
// 5a0fa9f.
func TestUpgradeOfGates(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4, gated(map[string]string{fleet.ProcessSecondsAnnotation: "0-4", fleet.MaxJobsAnnotation: "4"}, lab.OldGateKind, false))
	s.first(8)
	leavers := s.pods(on(s.nodes[0]))
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) {
		return shown(len(s.pods(leaving)) == len(leavers), s.watch.describe())
	})
	s.dial(2)
	s.hangUpOn(leavers...)
	s.ends(drain, inTime)
	s.does("uncordon", s.nodes[0])

	old := s.pods(all)
	s.does("patch", "deployment/"+lab.AgentName, "--patch",
		fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{%q:%q}}}}}`, fleet.GateAnnotation, lab.GateKind))
	s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=2m"), 2*inTime)
	if !s.talking() {
		t.Errorf("calls ended with the upgrade: %+v", s.callers.Report())
	}
	s.dial(2)
	s.hangUpAll()
	s.gone(2*inTime, old...)
	s.eventually(inTime, "four pods with gates of this checkout serve", func() (bool, error) {
		return shown(len(s.pods(func(p *corev1.Pod) bool {
			return p.Annotations[fleet.GateAnnotation] == lab.GateKind && stateOf(p) == call.Serving
		})) == 4, s.watch.describe())
	})
	s.noneDropped()
}
