// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
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
	// removalRetry is how long a node autoscaler that was refused may wait before it takes
	// the same node again: Cluster Autoscaler's --scale-down-delay-after-failure is 3
	// minutes, and its taint is away for so long.
	removalRetry = 10 * time.Minute
	// lookGap is longer than any time between two looks at a workload with a pod that
	// should go.
	lookGap = time.Minute
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
		m.ending = g.ending(m, now)
		unready := !m.ready && m.Running && m.able.why != call.Unreachable // when LiveKit can be reached again, who serves now serves on
		m.unready = g.dates.since(occasion{of: m.UID, fact: isUnready}, unready)
		m.arrived = g.dates.seenAt(occasion{of: m.UID, fact: there})
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
			g.notWanted(m)
			if m.pending() && p.again == 0 {
				p.again = again
			}
			continue
		}
		g.watch(w.key, m)
		f := w.facts(s, m, intent, now, g.cfg.Limits)
		g.date(ctx, m, &f)
		v := g.rules.Judge(f)
		p.judged = append(p.judged, judgement{member: m, intent: intent, facts: f, verdict: v})
		m.foresee(intent, v)
	}
	if p.busy() && p.again == 0 {
		p.again = again
	}
	return p
}

// since is when the pod was first seen to have to go, and when what stands behind that was.
// An autoscaler that is refused takes its taint off and tries again: that is one wish.
func (g *Guard) since(m *member) (wanted, standing time.Time) {
	behind := m.causes.Behind()
	wanted = g.dates.lasting(occasion{of: m.UID, fact: isWanted}, between(behind))
	g.dates.forget(func(o occasion) bool {
		return o.of == m.UID && o.fact == stands && o.key != behind && o.key != verdict.Removal
	})
	if behind != "" {
		standing = g.dates.lasting(occasion{of: m.UID, fact: stands, key: behind}, between(behind))
	}
	return wanted, standing
}

// notWanted forgets since when the pod has had to go, but for what an autoscaler wants,
// which may come back to it.
func (g *Guard) notWanted(m *member) {
	lapsed := g.dates.lapsed(occasion{of: m.UID, fact: stands, key: verdict.Removal}, removalRetry)
	g.dates.forget(func(o occasion) bool {
		return o.of == m.UID && (o.fact == stands && o.key != verdict.Removal || (o.fact == stands || o.fact == isWanted) && lapsed)
	})
}

// between is for how long what stands behind a wish may be away.
func between(behind string) time.Duration {
	if behind == verdict.Removal {
		return removalRetry
	}
	return lookGap
}

// date enters since when things hold, as this guard has seen them.
func (g *Guard) date(ctx context.Context, m *member, f *verdict.Facts) {
	f.Since, f.Standing = g.since(m)
	f.Pod.CameSince = f.Intent.Intent.OfNode() && g.cameSince(m)
	f.Pod.UnreadySince = m.unready
	f.Readings, f.QuietSince = g.readings.of(m.Pod)
	f.Sealed = sealed(f.Readings)
	// Not the time in the mark: it may be that of another guard, and was taken before the
	// mark was written, which may have taken any time.
	f.Pod.Drained = g.dates.since(occasion{of: m.UID, fact: isDraining}, m.State == call.Draining)
	if f.Pod.Drained.After(f.QuietSince) {
		f.QuietSince = f.Pod.Drained
	}
	if lost := m.causes.Lost; !lost.IsZero() && !f.Now.Before(lost) {
		f.LostSince = lost
		f.LeaseExpired, f.LeaseUnread = g.leaseExpired(ctx, m.Node, f.Now)
	}
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
		c.Cordoned, c.Tainted, c.Lost = nodeCauses(node, m.object, g.seen)
		misplaced := c.Daemon && m.owner != nil && !m.owner.going && misfit(m.owner, node, m.object)
		c.Misfit = g.dates.since(occasion{of: m.UID, fact: isMisfit}, misplaced)
	}
	return c
}

// seen is when something was first seen. Whoever looks once goes by what is said of it.
func (g *Guard) seen(o occasion, said *metav1.Time) time.Time {
	if g.once && said != nil {
		g.dates.set(o, said.Time)
	}
	return g.dates.first(o)
}

// cameSince reports whether a pod that still serves came after what its node wants it gone for.
func (g *Guard) cameSince(m *member) bool {
	node, err := g.cluster.nodes.Get(m.Node)
	if err != nil || m.State != call.Serving || !m.causes.Asked.IsZero() || !m.causes.Misfit.IsZero() {
		return false
	}
	pinned := m.owner != nil && m.owner.placed.NodeName != ""
	return cameSince(node, m.object, pinned, func(want occasion) bool {
		if g.once { // and has seen neither come
			return m.object.CreationTimestamp.After(g.dates.first(want))
		}
		return g.dates.before(want, occasion{of: m.UID, fact: there})
	})
}

// ending reports whether the pod's node is being taken away, or is lost: whatever else
// wants the pod to go, it takes no calls for long.
func (g *Guard) ending(m *member, now time.Time) bool {
	node, err := g.cluster.nodes.Get(m.Node)
	switch {
	case err != nil:
		return !g.once && m.Node != "" // one that looks once may not have been let read it
	case node.DeletionTimestamp != nil:
		return true
	default:
		return !m.causes.Tainted.IsZero() && !now.Before(m.causes.Tainted.Add(g.cfg.RemovalDelay)) || !m.causes.Lost.IsZero() && !now.Before(m.causes.Lost)
	}
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

// errOnce is why a node is not known to be lost to whoever looks once.
var errOnce = errors.New("only the guard, which looks more than once, sees whether its lease is renewed")

// leaseLook is what was last seen of a node's lease.
type leaseLook struct {
	looked  time.Time
	renewal time.Time // as the node dates it
	since   time.Time // when the guard first saw that
	expired bool
	err     error
}

// leaseExpired reports whether a node does not renew its lease any more, or has none: for
// as long as the lease lasts, by this guard's own clock. It is read once for all pods of
// the node, and not more often than they are looked at.
func (g *Guard) leaseExpired(ctx context.Context, node string, now time.Time) (bool, error) {
	g.mu.Lock()
	look := g.leases[node]
	g.mu.Unlock()
	if !look.looked.IsZero() && now.Sub(look.looked) < again {
		return look.expired, look.err
	}
	look = g.lookAtLease(ctx, node, look, now)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leases[node] = look
	return look.expired, look.err
}

func (g *Guard) lookAtLease(ctx context.Context, node string, last leaseLook, now time.Time) leaseLook {
	look := leaseLook{looked: now, renewal: last.renewal, since: last.since}
	lease, err := g.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		look.expired = true
	case err != nil:
		look.err = fmt.Errorf("cannot read the lease of node %s: %w", node, err)
	case lease.Spec.LeaseDurationSeconds == nil || lease.Spec.RenewTime == nil:
	case g.once:
		look.err = errOnce
	default:
		if renewal := lease.Spec.RenewTime.Time; look.since.IsZero() || !renewal.Equal(look.renewal) {
			look.renewal, look.since = renewal, now
		}
		look.expired = now.Sub(look.since) > time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second
	}
	return look
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
