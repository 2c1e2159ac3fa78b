// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

const (
	// choosing is how soon a workload is looked at again while witnesses are asked
	// which pods to choose.
	choosing = 200 * time.Millisecond
	// chooseWithin bounds that: it goes by what is known then. Two reads of LiveKit
	// begin within it.
	chooseWithin = 10 * time.Second
)

// judgement is a verdict on a member.
type judgement struct {
	*member

	intent  call.Mark
	facts   verdict.Facts
	verdict verdict.Verdict
}

// plan is what is to be done with a workload.
type plan struct {
	judged   []judgement // of members that something wants to go
	released []*member
	again    time.Duration // zero: when something changes
}

func (p plan) busy() bool { return len(p.judged)+len(p.released) > 0 }

// shut holds every pod, for the doors are not in force.
func (p plan) shut(why error) {
	for i := range p.judged {
		p.judged[i].verdict = verdict.Verdict{Outcome: verdict.Hold, Rule: RuleDoors, Why: "callguard's admission policies are not in force: " + why.Error()}
	}
}

// moves says whether the plan has steps that concern other pods of the workload.
func (p plan) moves() bool {
	return slices.ContainsFunc(p.judged, func(j judgement) bool {
		return j.verdict.Outcome == verdict.SetAside || j.verdict.Outcome == verdict.Drain
	})
}

// drains reports whether a pod is to stop taking calls for which others have to be able to.
func (p plan) drains() bool {
	return slices.ContainsFunc(p.judged, func(j judgement) bool {
		return j.verdict.Outcome == verdict.Drain && j.facts.Pod.Running
	})
}

// plan judges every member of a workload, each in the light of what is decided
// about those before it.
func (g *Guard) plan(ctx context.Context, s *snapshot, w *workload) plan {
	now := g.now()
	var p plan
	g.hears(w, now)
	for _, m := range w.members {
		m.causes = g.causes(s, m)
	}
	if waiting := g.choose(s, w, now); waiting {
		p.again = choosing
	}
	for _, m := range w.members {
		_, m.wanted = verdict.Intent(m.causes, now, g.cfg.RemovalDelay)
	}
	g.asksGates(w)
	for _, m := range w.members {
		switch {
		case m.leaving || m.unlocked():
			continue
		case m.State == call.Released:
			p.released = append(p.released, m)
			continue
		}
		intent, wanted := verdict.Intent(m.causes, now, g.cfg.RemovalDelay)
		if !wanted {
			if m.pending() && p.again == 0 {
				p.again = again
			}
			continue
		}
		g.watch(w.key, m)
		f := w.facts(s, m, intent, now, g.cfg.Limits)
		f.Pod.WasThere = intent.Intent == call.Drain && g.wasThere(m)
		f.Readings, f.QuietSince = g.readings.of(m.Pod)
		f.Sealed = sealed(f.Readings)
		if marked := g.dates.since(occasion{of: m.UID, fact: isDraining}, m.State == call.Draining); marked.After(f.QuietSince) {
			// Not the time in the mark: it was taken before the mark was written, and
			// that may have taken any time.
			f.QuietSince = marked
		}
		if lost := m.causes.Lost; !lost.IsZero() && !now.Before(lost) {
			f.LostSince = lost
			f.LeaseExpired, f.LeaseUnread = g.leaseExpired(ctx, m.Node, now)
		}
		v := g.rules.Judge(f)
		p.judged = append(p.judged, judgement{member: m, intent: intent, facts: f, verdict: v})
		m.foresee(intent, v)
	}
	if p.busy() && p.again == 0 {
		p.again = again
	}
	return p
}

// foresee enters what a verdict is about to make of a member, so that the next
// verdict counts with it.
func (m *member) foresee(intent call.Mark, v verdict.Verdict) {
	switch v.Outcome {
	case verdict.SetAside:
		m.aside, m.marked = true, intent
		m.State = call.Aside
	case verdict.Drain:
		m.State = call.Draining
	default:
	}
}

// pending says whether a cause is there that does not count yet.
func (m *member) pending() bool { return !m.causes.Lost.IsZero() || !m.causes.Tainted.IsZero() }

// causes gathers why a member may have to go.
func (g *Guard) causes(s *snapshot, m *member) verdict.Causes {
	c := verdict.Causes{Marked: m.marked}
	c.Orphaned = g.dates.since(occasion{of: m.UID, fact: orphaned}, s.mayBeOrphaned(m))
	if ref := metav1.GetControllerOfNoCopy(m.object); ref != nil {
		c.Daemon = ref.Kind == daemonSet
	}
	_, asked := m.object.Annotations[call.LeaveAnnotation]
	c.Asked = g.dates.since(occasion{of: m.UID, fact: askedToGo}, asked)
	if node, err := g.cluster.nodes.Get(m.Node); err == nil {
		c.Cordoned, c.Tainted, c.Lost = nodeCauses(node, m.object, g.dates.first)
	}
	return c
}

// choose picks those that go where an owner has more pods than it wants, by what
// witnesses have said since: a call that ended just before must not count for its
// pod, and where witnesses disagree one of them may not have seen its end yet. It says
// whether it still waits for them.
func (g *Guard) choose(s *snapshot, w *workload, now time.Time) (waiting bool) {
	excesses := s.excesses(w)
	for _, m := range w.members {
		if m.owner != nil && !slices.ContainsFunc(excesses, func(e excess) bool { return e.owner == m.owner }) {
			g.dates.since(occasion{of: m.owner.ref.UID, fact: hasTooMany}, false)
		}
	}
	for _, e := range excesses {
		since := g.dates.first(occasion{of: e.owner.ref.UID, fact: hasTooMany})
		if e.n < len(e.candidates) {
			known := true
			for _, m := range e.candidates {
				g.watch(w.key, m)
				list, _ := g.readings.of(m.Pod)
				known = known && (!m.Running || knownSince(list, since) && agree(list))
			}
			if !known && !g.once && now.Sub(since) < chooseWithin {
				waiting = true
				continue
			}
		}
		var candidates []verdict.Candidate
		for _, m := range e.candidates {
			list, _ := g.readings.of(m.Pod)
			_, leaving := verdict.Intent(m.causes, now, g.cfg.RemovalDelay)
			candidates = append(candidates, candidate(m, leaving, merged(list)))
		}
		for _, l := range verdict.Leavers(candidates, e.n) {
			for _, m := range e.candidates {
				if m.Name == l.Name {
					m.causes.Excess = call.Mark{Intent: e.intent, At: since}
					m.chosen = "its " + e.owner.ref.Kind + " has more pods than it wants, and " + l.Why
				}
			}
		}
	}
	return waiting
}

// leaseExpired says whether a node does not report any more, or is gone.
func (g *Guard) leaseExpired(ctx context.Context, node string, now time.Time) (bool, error) {
	lease, err := g.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the lease of node %s: %w", node, err)
	}
	if lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
		return false, nil
	}
	return now.After(lease.Spec.RenewTime.Add(time.Duration(*lease.Spec.LeaseDurationSeconds) * time.Second)), nil
}

// watch has the witnesses of a member read, on behalf of its workload.
func (g *Guard) watch(key Key, m *member) {
	if !m.Running {
		return
	}
	g.mu.Lock()
	g.keys[m.UID] = key
	g.mu.Unlock()
	g.readings.want(m.Pod)
}

// wasThere says whether the pod was seen before its node was seen to be cordoned.
func (g *Guard) wasThere(m *member) bool {
	node, err := g.cluster.nodes.Get(m.Node)
	if err != nil {
		return false
	}
	return g.dates.before(occasion{of: m.UID, fact: there}, occasion{of: node.UID, fact: cordoned})
}
