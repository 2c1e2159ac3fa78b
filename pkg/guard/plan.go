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
	// choosing is how soon a workload is looked at again while witnesses are asked in order to
	// choose pods.
	choosing = 200 * time.Millisecond
	// chooseWithin is the maximum time for that; then pods are chosen by what is known. It is
	// long enough for two reads of LiveKit to begin.
	chooseWithin = 10 * time.Second
	// removalRetry is the maximum time after which a refused node autoscaler's next attempt at
	// the same node counts as the same one. Cluster Autoscaler's
	// --scale-down-delay-after-failure is 3 minutes, and for that time its taint is gone.
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

// plan is what has to be done with a workload, and what to read for the next plan.
type plan struct {
	judged   []judgement // of members that should go
	released []*member
	again    time.Duration // zero: when something changes

	// asked are the members whose witnesses have to be asked from now on. For those in
	// compared all witnesses are asked, because their number of calls matters, not only
	// whether there are any.
	asked, compared []*member
	// gates are the members whose gates have to be asked whether the pod can take calls.
	gates []*member
	// leases are the nodes whose leases have to be read.
	leases []string
}

// known is what a planner knows besides the objects of a namespace. None of its functions
// makes a request.
type known struct {
	// node returns a node by its name; nil if it does not exist or may not be read.
	node func(name string) *corev1.Node
	// onNode returns the guarded pods of a node.
	onNode func(name string) []*corev1.Pod
	// calls returns what each witness of a pod said last, and since when no call has begun.
	calls func(*call.Pod) ([]verdict.Reading, time.Time)
	// ability returns what a pod's gate said last, and since when it has said the same; empty
	// if it was not asked. Nil if gates are not asked at all.
	ability func(types.UID) (call.Ability, time.Time)
	// lease reports whether a node's lease has expired, or why that is not known.
	lease func(node string) (expired bool, err error)
}

// planner decides what has to be done with a workload: facts in, plan out. It makes no
// request. It only remembers since when facts hold, as far as it has seen.
type planner struct {
	known

	settings Settings
	rules    verdict.Rules
	now      func() time.Time
	dates    *dates
	// once is for a single look: it takes times from the objects themselves, and does not wait
	// for what is not known yet.
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

// order returns the verdicts to carry out, at most the given number. Releases come first, so
// that they do not wait until hundreds of other pods are set aside. Pods whose latest step
// has failed come last, the oldest failure first.
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

// drains reports whether the plan drains a pod, so that others have to be able to take
// calls.
func (p plan) drains() bool {
	return slices.ContainsFunc(p.judged, func(j judgement) bool {
		return j.verdict.Outcome == verdict.Drain && j.facts.Pod.Running
	})
}

// plan judges every member of a workload, each with what was decided about the members
// before it.
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
		unready := !m.ready && m.Running && m.able.why != call.Unreachable // once LiveKit is reachable again, the pod serves again
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
		if p.judged == nil { // usually all of them; a judgement is large
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

// since returns when it was first seen that the pod should go, and when its present reason
// was (Causes.Behind). The attempts of an autoscaler that is refused, removes its taint and
// tries again count as one reason.
func (pl *planner) since(m *member) (wanted, standing time.Time) {
	behind := m.causes.Behind()
	wanted = pl.dates.lasting(occasion{of: m.UID, fact: isWanted}, between(behind))
	pl.dates.forget(m.UID, func(o occasion) bool { return o.fact == stands && o.key != behind && o.key != verdict.Removal })
	if behind != "" {
		standing = pl.dates.lasting(occasion{of: m.UID, fact: stands, key: behind}, between(behind))
	}
	return wanted, standing
}

// notWanted forgets since when the pod should go, except for an autoscaler's reason, which
// may return.
func (pl *planner) notWanted(m *member) {
	lapsed := pl.dates.lapsed(occasion{of: m.UID, fact: stands, key: verdict.Removal}, removalRetry)
	pl.dates.forget(m.UID, func(o occasion) bool {
		return o.fact == stands && o.key != verdict.Removal || (o.fact == stands || o.fact == isWanted) && lapsed
	})
}

// between returns for how long a reason may be absent without counting as a new one.
func between(behind string) time.Duration {
	if behind == verdict.Removal {
		return removalRetry
	}
	return lookGap
}

// date records since when facts hold, as this guard has seen them.
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
	// This is not the time in the mark. That may be from another guard, and was taken before
	// the mark was written, which may have taken any time.
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

// foresee changes a member to what a verdict will make of it, so that the next verdict
// takes that into account.
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

// pending returns when to look again because of a cause that does not count yet; zero if
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

// causes returns the reasons why a member may have to go.
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
		// A pod without an owner would not be created again elsewhere.
		if marked := candidateSince(node, pl.seen); !marked.IsZero() && metav1.GetControllerOfNoCopy(m.object) != nil {
			c.Candidate = marked.Add(pl.settings.CandidateDelay)
		}
		c.Cordoned, c.Tainted, c.Lost = nodeCauses(node, m.object, pl.seen)
		misplaced := c.Daemon && m.owner != nil && !m.owner.going && misfit(m.owner, node, m.object)
		c.Misfit = pl.dates.since(occasion{of: m.UID, fact: isMisfit}, misplaced)
	}
	return c
}

// seen returns when something was first seen. In a single look it is the time that the
// object has.
func (pl *planner) seen(o occasion, said *metav1.Time) time.Time {
	if pl.once && said != nil {
		pl.dates.set(o, said.Time)
	}
	return pl.dates.first(o)
}

// cameSince reports whether a serving pod came to its node after the reason for which the
// node's pods should go.
func (pl *planner) cameSince(m *member) bool {
	node := pl.node(m.Node)
	if node == nil || m.State != call.Serving || !m.causes.Asked.IsZero() || !m.causes.Misfit.IsZero() {
		return false
	}
	pinned := m.owner != nil && m.owner.placed.NodeName != ""
	return cameSince(node, m.object, pinned, pl.settings.CandidateDelay, func(want occasion, after time.Duration) bool {
		if pl.once { // a single look has seen neither begin
			return m.object.CreationTimestamp.After(pl.dates.first(want).Add(after))
		}
		return pl.dates.before(want, after, occasion{of: m.UID, fact: there})
	})
}

// ending reports whether the pod's node is being removed or is lost, so that the pod will
// not take calls for long, whatever its intent.
func (pl *planner) ending(m *member, now time.Time) bool {
	node := pl.node(m.Node)
	switch {
	case node == nil:
		return !pl.once && m.Node != "" // in a single look the node may just not be readable
	case !m.causes.Going.IsZero():
		return true
	default:
		return !m.causes.Tainted.IsZero() && !now.Before(m.causes.Tainted.Add(pl.settings.RemovalDelay)) || !m.causes.Lost.IsZero() && !now.Before(m.causes.Lost)
	}
}

// choose picks the pods that go if an owner has more than it wants. It uses only what
// witnesses have said since then, because a call that ended just before must not count for
// its pod, and if witnesses disagree, one of them may not have seen its end yet. It reports
// whether it still waits for witnesses.
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

// staying counts, by node, the guarded pods other than the candidates that stay on the
// candidates' nodes.
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

// stays reports whether a guarded pod will stay on its node after its present calls, as far
// as the pod itself shows.
func stays(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed &&
		call.StateOf(pod.Labels, pod.Annotations) == call.Serving
}

// ask requests that the witnesses of a member are asked from now on.
func (p *plan) ask(m *member) {
	if m.Running {
		p.asked = append(p.asked, m)
	}
}

// compare requests that all of its witnesses are asked.
func (p *plan) compare(m *member) {
	if m.Running {
		p.compared = append(p.compared, m)
	}
}
