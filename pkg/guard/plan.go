// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules"
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

// plan is what is to be done with a workload, and what to ask for the next plan.
type plan struct {
	judged   []judgement // of members that something wants to go
	released []*member
	again    time.Duration // zero: when something changes

	// asked are members whose witnesses are to be asked from now on, and compared those of
	// which all are: whose calls are to be known, not only whether there are any.
	asked, compared []*member
	// gates are members whose gates are to say whether they can take calls.
	gates []*member
	// leases are nodes whose leases are to be read.
	leases []string
}

// known is what a planner goes by beside a namespace. None of it makes a request.
type known struct {
	// node is a node by its name; nil where there is none, or none that may be read.
	node func(name string) *corev1.Node
	// onNode are the guarded pods of a node.
	onNode func(name string) []*corev1.Pod
	// calls is what each witness of a pod said last, and since when no call has begun.
	calls func(*call.Pod) ([]verdict.Reading, time.Time)
	// ability is what a pod's gate said last, and since when it has said the same; empty
	// where it was not asked. Nil where nobody asks gates.
	ability func(types.UID) (call.Ability, time.Time)
	// lease reports whether a node's lease has run out, or why that is not known.
	lease func(node string) (expired bool, err error)
}

// planner says what is to be done with a workload: facts in, plan out. It makes no
// request. What it remembers is since when things have been so, as far as it has seen.
type planner struct {
	known

	settings Settings
	rules    verdict.Rules
	now      func() time.Time
	dates    *dates
	// once says that it looks once: it goes by what objects say of themselves, and nobody
	// waits for what is not known yet.
	once bool
}

func newPlanner(settings Settings, by known, now func() time.Time) *planner {
	return &planner{known: by, settings: settings, rules: rules.All(), now: now, dates: newDates(now)}
}

func (p plan) busy() bool { return len(p.judged)+len(p.released) > 0 }

// shut holds every pod, because the admission policies are not in effect.
func (p plan) shut(why error) {
	for i := range p.judged {
		p.judged[i].verdict = verdict.Verdict{Outcome: verdict.Hold, Rule: RuleDoors, Why: "callguard's admission policies are not in effect: " + why.Error()}
	}
}

// moves reports whether the plan has steps that concern other pods of the workload.
func (p plan) moves() bool {
	return slices.ContainsFunc(p.judged, func(j judgement) bool {
		return j.verdict.Outcome == verdict.SetAside || j.verdict.Outcome == verdict.Drain
	})
}

// order is the order in which verdicts are carried out: who may go goes first, and does not
// wait until hundreds of others are set aside. Those whose latest step has failed come after
// all others, the longest ago first. It has at most so many steps.
func (p plan) order(most int, failed func(types.UID) time.Time) []*judgement {
	list := make([]*judgement, len(p.judged))
	for i := range p.judged {
		list[i] = &p.judged[i]
	}
	outcomes := []verdict.Outcome{verdict.Release, verdict.Drain, verdict.SetAside, verdict.Hold}
	slices.SortStableFunc(list, func(a, b *judgement) int {
		if aHolds, bHolds := a.verdict.Outcome == verdict.Hold, b.verdict.Outcome == verdict.Hold; aHolds || bHolds {
			return slices.Index(outcomes, a.verdict.Outcome) - slices.Index(outcomes, b.verdict.Outcome)
		}
		return cmp.Or(failed(a.UID).Compare(failed(b.UID)), slices.Index(outcomes, a.verdict.Outcome)-slices.Index(outcomes, b.verdict.Outcome))
	})
	return list[:min(most, p.steps())]
}

// steps counts the verdicts that change something.
func (p plan) steps() (n int) {
	for _, j := range p.judged {
		if j.verdict.Outcome != verdict.Hold {
			n++
		}
	}
	return n
}

// drains reports whether a pod is to stop taking calls for which others have to be able to.
func (p plan) drains() bool {
	return slices.ContainsFunc(p.judged, func(j judgement) bool {
		return j.verdict.Outcome == verdict.Drain && j.facts.Pod.Running
	})
}

// plan judges every member of a workload, each in the light of what is decided
// about those before it.
func (pl *planner) plan(s *snapshot, w *workload) plan {
	now := pl.now()
	var p plan
	pl.hears(w, now)
	for _, m := range w.members {
		m.causes = pl.causes(s, m)
	}
	if waiting := pl.choose(s, w, now, &p); waiting {
		p.again = choosing
	}
	for _, m := range w.members {
		_, m.wanted = verdict.Intent(m.causes, now, pl.settings.RemovalDelay)
		m.ending = pl.ending(m, now)
		unready := !m.ready && m.Running && m.able.why != call.Unreachable // when LiveKit can be reached again, who serves now serves on
		m.unready = pl.dates.since(occasion{of: m.UID, fact: isUnready}, unready)
		m.arrived = pl.dates.seenAt(occasion{of: m.UID, fact: there})
	}
	p.gates = pl.asksGates(w)
	all := w.company(now)
	for _, m := range w.members {
		switch {
		case m.Terminating || m.unlocked():
			continue
		case m.State == call.Released:
			p.released = append(p.released, m)
			continue
		}
		intent, wanted := verdict.Intent(m.causes, now, pl.settings.RemovalDelay)
		if !wanted {
			pl.notWanted(m)
			if after := m.pending(now); after > 0 && (p.again == 0 || after < p.again) {
				p.again = after
			}
			continue
		}
		if p.judged == nil { // all, as a rule: a verdict is large
			p.judged, p.asked = make([]judgement, 0, len(w.members)), slices.Grow(p.asked, len(w.members))
		}
		p.ask(m)
		f := w.facts(s, m, all, intent, now, pl.settings.Limits)
		pl.date(m, &f, &p)
		v := pl.rules.Judge(f)
		p.judged = append(p.judged, judgement{member: m, intent: intent, facts: f, verdict: v})
		all.leave(m)
		m.foresee(intent, v)
		all.join(m)
	}
	if p.busy() && (p.again == 0 || p.again > again) {
		p.again = again
	}
	return p
}

// since is when the pod was first seen to have to go, and when what stands behind that was.
// An autoscaler that is refused takes its taint off and tries again: that is one wish.
func (pl *planner) since(m *member) (wanted, standing time.Time) {
	behind := m.causes.Behind()
	wanted = pl.dates.lasting(occasion{of: m.UID, fact: isWanted}, between(behind))
	pl.dates.forget(m.UID, func(o occasion) bool { return o.fact == stands && o.key != behind && o.key != verdict.Removal })
	if behind != "" {
		standing = pl.dates.lasting(occasion{of: m.UID, fact: stands, key: behind}, between(behind))
	}
	return wanted, standing
}

// notWanted forgets since when the pod has had to go, but for what an autoscaler wants,
// which may come back to it.
func (pl *planner) notWanted(m *member) {
	lapsed := pl.dates.lapsed(occasion{of: m.UID, fact: stands, key: verdict.Removal}, removalRetry)
	pl.dates.forget(m.UID, func(o occasion) bool {
		return o.fact == stands && o.key != verdict.Removal || (o.fact == stands || o.fact == isWanted) && lapsed
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
func (pl *planner) date(m *member, f *verdict.Facts, p *plan) {
	f.Since, f.Standing = pl.since(m)
	f.Pod.CameSince = f.Intent.Intent.OfNode() && pl.cameSince(m)
	f.Pod.UnreadySince = m.unready
	f.Notice = m.notice
	if f.NodeEnds = m.nodeEnds; !f.NodeEnds.IsZero() && f.Limits.NodeEnds {
		f.LetGoBy = letGoBy(m.object, f.NodeEnds)
	}
	f.Readings, f.QuietSince = pl.calls(m.Pod)
	f.Sealed = sealed(f.Readings)
	// Not the time in the mark: it may be that of another guard, and was taken before the
	// mark was written, which may have taken any time.
	f.Pod.DrainingSince = pl.dates.since(occasion{of: m.UID, fact: isDraining}, m.State == call.Draining)
	if f.Pod.DrainingSince.After(f.QuietSince) {
		f.QuietSince = f.Pod.DrainingSince
	}
	if lost := m.causes.Lost; !lost.IsZero() && !f.Now.Before(lost) {
		f.LostSince = lost
		f.LeaseExpired, f.LeaseUnread = pl.lease(m.Node)
		if !slices.Contains(p.leases, m.Node) {
			p.leases = append(p.leases, m.Node)
		}
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

// pending is when to look again for a cause that is there and does not count yet; zero where
// there is none.
func (m *member) pending(now time.Time) time.Duration {
	switch {
	case !m.causes.Lost.IsZero() || !m.causes.Tainted.IsZero():
		return again
	case !m.causes.Candidate.IsZero():
		return max(again, m.causes.Candidate.Sub(now))
	default:
		return 0
	}
}

// causes gathers why a member may have to go.
func (pl *planner) causes(s *snapshot, m *member) verdict.Causes {
	c := verdict.Causes{Marked: m.marked}
	c.Orphaned = pl.dates.since(occasion{of: m.UID, fact: orphaned}, s.mayBeOrphaned(m))
	if ref := metav1.GetControllerOfNoCopy(m.object); ref != nil {
		c.Daemon = ref.Kind == daemonSet
	}
	_, asked := m.object.Annotations[call.LeaveAnnotation]
	c.Asked = pl.dates.since(occasion{of: m.UID, fact: askedToGo}, asked)
	if node := pl.node(m.Node); node != nil {
		m.notice, m.nodeEnds = noticeOf(node), nodeEnds(node)
		c.Going = goes(node, pl.seen)
		// A pod without an owner would not be made again elsewhere.
		if marked := candidateSince(node, pl.seen); !marked.IsZero() && metav1.GetControllerOfNoCopy(m.object) != nil {
			c.Candidate = marked.Add(pl.settings.CandidateDelay)
		}
		c.Cordoned, c.Tainted, c.Lost = nodeCauses(node, m.object, pl.seen)
		misplaced := c.Daemon && m.owner != nil && !m.owner.going && misfit(m.owner, node, m.object)
		c.Misfit = pl.dates.since(occasion{of: m.UID, fact: isMisfit}, misplaced)
	}
	return c
}

// seen is when something was first seen. Whoever looks once goes by what is said of it.
func (pl *planner) seen(o occasion, said *metav1.Time) time.Time {
	if pl.once && said != nil {
		pl.dates.set(o, said.Time)
	}
	return pl.dates.first(o)
}

// cameSince reports whether a pod that still serves came after what its node wants it gone for.
func (pl *planner) cameSince(m *member) bool {
	node := pl.node(m.Node)
	if node == nil || m.State != call.Serving || !m.causes.Asked.IsZero() || !m.causes.Misfit.IsZero() {
		return false
	}
	pinned := m.owner != nil && m.owner.placed.NodeName != ""
	return cameSince(node, m.object, pinned, pl.settings.CandidateDelay, func(want occasion, after time.Duration) bool {
		if pl.once { // and has seen neither come
			return m.object.CreationTimestamp.After(pl.dates.first(want).Add(after))
		}
		return pl.dates.before(want, after, occasion{of: m.UID, fact: there})
	})
}

// ending reports whether the pod's node is being taken away, or is lost: whatever else
// wants the pod to go, it takes no calls for long.
func (pl *planner) ending(m *member, now time.Time) bool {
	node := pl.node(m.Node)
	switch {
	case node == nil:
		return !pl.once && m.Node != "" // one that looks once may not have been let read it
	case !m.causes.Going.IsZero():
		return true
	default:
		return !m.causes.Tainted.IsZero() && !now.Before(m.causes.Tainted.Add(pl.settings.RemovalDelay)) || !m.causes.Lost.IsZero() && !now.Before(m.causes.Lost)
	}
}

// choose picks those that go where an owner has more pods than it wants, by what
// witnesses have said since: a call that ended just before must not count for its
// pod, and where witnesses disagree one of them may not have seen its end yet. It says
// whether it still waits for them.
func (pl *planner) choose(s *snapshot, w *workload, now time.Time, p *plan) (waiting bool) {
	excesses := s.excesses(w)
	for _, m := range w.members {
		if m.owner != nil && !slices.ContainsFunc(excesses, func(e excess) bool { return e.owner == m.owner }) {
			pl.dates.since(occasion{of: m.owner.ref.UID, fact: hasTooMany}, false)
		}
	}
	for _, e := range excesses {
		since := pl.dates.first(occasion{of: e.owner.ref.UID, fact: hasTooMany})
		if e.n < len(e.candidates) {
			known := true
			for _, m := range e.candidates {
				p.compare(m)
				list, _ := pl.calls(m.Pod)
				known = known && (!m.Running || knownSince(list, since) && agree(list))
			}
			if !known && !pl.once && now.Sub(since) < chooseWithin {
				waiting = true
				continue
			}
		}
		var candidates []verdict.Candidate
		for _, m := range e.candidates {
			list, _ := pl.calls(m.Pod)
			_, wanted := verdict.Intent(m.causes, now, pl.settings.RemovalDelay)
			candidates = append(candidates, candidate(m, wanted, merged(list)))
		}
		chosen := map[string]string{}
		for _, l := range verdict.Leavers(pl.settings.Leavers, candidates, e.n, pl.staying(e.candidates)) {
			chosen[l.Name] = l.Why
		}
		for _, m := range e.candidates {
			if why, leaves := chosen[m.Name]; leaves {
				m.causes.Excess = call.Mark{Intent: e.intent, At: since}
				m.chosen = "its " + e.owner.ref.Kind + " " + cmp.Or(e.why, "has more pods than it wants") + ", and " + why
			}
		}
	}
	return waiting
}

// staying counts the guarded pods that stay on the nodes of these, by node, without these.
func (pl *planner) staying(candidates []*member) map[string]int {
	count, candidate := map[string]int{}, map[types.UID]bool{}
	for _, m := range candidates {
		candidate[m.UID] = true
	}
	for _, m := range candidates {
		if _, done := count[m.Node]; done {
			continue
		}
		count[m.Node] = 0
		for _, pod := range pl.onNode(m.Node) {
			if stays(pod) && !candidate[pod.UID] {
				count[m.Node]++
			}
		}
	}
	return count
}

// stays reports whether a guarded pod holds its node for longer than its calls, as far as
// the pod says.
func stays(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed &&
		call.StateOf(pod.Labels, pod.Annotations) == call.Serving
}

// ask has the witnesses of a member asked from now on.
func (p *plan) ask(m *member) {
	if m.Running {
		p.asked = append(p.asked, m)
	}
}

// compare has all of its witnesses asked.
func (p *plan) compare(m *member) {
	if m.Running {
		p.compared = append(p.compared, m)
	}
}
