// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	ownDeadline = 15 * time.Second
	// atDeadline is how late a forced release may be: the guard checks every second, and its
	// writes and the test's watch take time.
	atDeadline = 4 * time.Second
	shortGrace = 5 // seconds
)

// TestDeadline: a team prefers losing a call to waiting. Its pods are released at their
// own deadline, and not before, during their calls. That is in Events, metrics and the
// log. The calls of others go on.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2, func(d *appsv1.Deployment) {
		grace := int64(shortGrace)
		d.Spec.Template.Annotations[call.DeadlineAnnotation] = ownDeadline.String()
		d.Spec.Template.Annotations[call.OnDeadlineAnnotation] = "Release"
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
	})
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	if len(leavers) != 1 {
		t.Fatalf("%s has pods %v; want one", s.nodes[0], leavers)
	}
	leaver := leavers[0]
	before := s.forced()
	began := time.Now()
	s.does("cordon", s.nodes[0])
	wanted := time.Now() // or a kubectl run sooner
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "it takes no new call", func() (bool, error) { return len(s.pods(in(call.Draining))) == 1, nil })

	s.eventually(ownDeadline+soon, "it is released", func() (bool, error) { return !s.watch.since(leaver, call.Released).IsZero(), nil })
	released := s.watch.since(leaver, call.Released)
	t.Logf("it was held for %.1f s", released.Sub(wanted).Seconds())
	if released.Sub(began) < ownDeadline || released.Sub(wanted) > ownDeadline+atDeadline {
		t.Errorf("it was released %s after its node was drained; want its deadline of %s, and at most %s more", released.Sub(wanted), ownDeadline, atDeadline)
	}
	s.ends(drain, inTime)
	s.gone(soon, leaver)

	lost := s.callers.Report().Dropped
	if len(lost) != 1 || lost[0].Pod.Name != leaver || lost[0].Cause != fleet.CauseGrace {
		t.Fatalf("dropped calls: %+v; want the one of %s, %s", lost, leaver, fleet.CauseGrace)
	}
	if end := lost[0].At.Sub(began); end < ownDeadline+shortGrace*time.Second {
		t.Errorf("the call was cut %s after its node was drained; want no less than the deadline of %s and the grace of %d s", end, ownDeadline, shortGrace)
	}
	if up := s.callers.Report().Up; up != 1 {
		t.Errorf("%d calls go on; want that of the other node", up)
	}
	const why = "its own callguard.dev/drain-deadline has passed"
	s.told(s.ns, "Pod", leaver, guard.ReasonForced, why)
	s.told(s.ns, "Deployment", lab.AgentName, guard.ReasonForced, why)
	s.told(metav1.NamespaceDefault, "Node", s.nodes[0], guard.ReasonForced, leaver)
	if n := s.forced() - before; n != 1 {
		t.Errorf("%v forced releases are counted; want 1", n)
	}
	log, err := os.ReadFile(stage.Guard.Log)
	s.must(err)
	if line := `msg="Pod is released by force" pod=` + s.ns + "/" + leaver; !strings.Contains(string(log), line) {
		t.Errorf("the guard's log has no line %s", line)
	}
	s.bounds(3, 2)
}

// forced returns how many pods the guard has released by force.
func (s *story) forced() float64 {
	s.t.Helper()
	m, err := stage.Guard.Metrics(s.t.Context())
	s.must(err)
	return m.Sum("callguard_forced_releases_total")
}
