// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

// workload has the pods that do the same work, and how many are wanted.
type workload struct {
	key          Key
	desired      int
	minAvailable int
	surge        int
	recreate     bool
	// maxUnavailable is how many replicas may be missing during a rollout.
	maxUnavailable int
	// strangers counts its ready unguarded pods.
	strangers int
	members   []*member
	// complaint is what is wrong with the workload's own annotation.
	complaint error
}

// member is a guarded pod of a workload.
type member struct {
	*call.Pod

	object   *corev1.Pod
	owner    *owner // nil where it has none, or none that is known
	followed bool   // the guard follows the kind of its controller by an administrator's wish
	ready    bool
	gated    bool   // it has a call-gate
	able     ableAt // the ability that the gate reports
	aside    bool
	marked   call.Mark // from its annotations
	draining time.Time // since when it takes no new calls; zero while it does
	deadline call.Deadline
	// launchLimit is how long its agent may take to start a job, if an annotation sets it.
	launchLimit time.Duration
	causes      verdict.Causes
	wanted      bool      // it should go
	ending      bool      // its node is being removed, with everything on it
	unready     time.Time // since when it is not ready; zero while it is
	arrived     time.Time // when it was first seen
	notice      string    // the taint or condition that announces the end of its node within minutes; empty if there is none
	nodeEnds    time.Time // when its node ends whatever runs on it; zero if no such time is known
	chosen      string
	// complaints are what is wrong with its annotations.
	complaints []error
}

// workload gathers the pods of a workload from a snapshot.
func (s *snapshot) workload(key Key) *workload {
	w := &workload{key: key, surge: 1}
	for _, pod := range s.pods {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && s.top(pod).UID == key.UID {
			w.members = append(w.members, s.member(pod))
		}
	}
	slices.SortFunc(w.members, func(a, b *member) int { return strings.Compare(a.Name, b.Name) })
	w.desired = s.desired(w)
	w.minAvailable = w.desired
	if o := s.owners[key.UID]; o != nil {
		w.surge, w.recreate, w.maxUnavailable = o.surge, o.recreate, o.maxUnavailable
		if o.annotations[call.MinAvailableAnnotation] != "" {
			w.maxUnavailable = 0 // the team has set how many may be missing
		}
		w.minAvailable, w.complaint = call.ParseMinAvailable(o.annotations[call.MinAvailableAnnotation], w.desired)
	}
	w.strangers = s.strangersOf(w)
	return w
}

// desired returns how many replicas the top owner wants. If the guard does not know the
// owner's kind, it is what its ReplicaSets want, or the pods it has.
func (s *snapshot) desired(w *workload) int {
	if o := s.owners[w.key.UID]; o != nil && !o.unsaid {
		return o.replicas
	}
	n, found := 0, false
	for _, o := range s.owners {
		if o.controller != nil && o.controller.UID == w.key.UID {
			n, found = n+o.replicas, true
		}
	}
	if found {
		return n
	}
	for _, m := range w.members {
		if !m.Terminating {
			n++
		}
	}
	return n
}

func (s *snapshot) member(pod *corev1.Pod) *member {
	p, complaints := pods.FromPod(pod)
	m := &member{
		Pod: p, object: pod, complaints: complaints, gated: gated(pod, p),
		aside: call.IsAside(pod.Labels),
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		m.owner = s.owners[ref.UID]
		m.followed = s.others.follows(*ref) && !numbered(pod)
	}
	m.ready = isReady(pod)
	for _, annotation := range []string{call.AsideAnnotation, call.DrainingAnnotation} {
		mark, err := call.ParseMark(pod.Annotations[annotation])
		if err != nil {
			continue // only the guard writes marks; a pod without one has made no step
		}
		m.marked = mark
		if annotation == call.DrainingAnnotation {
			m.draining = mark.At
		}
	}
	if m.marked.Intent == "" && m.State == call.Aside {
		m.marked = call.Mark{Intent: call.Operator, At: pod.CreationTimestamp.Time} // set aside by hand
	}
	m.deadline, _ = call.ParseDeadline(pod.Annotations[call.DeadlineAnnotation], pod.Annotations[call.OnDeadlineAnnotation])
	m.launchLimit, _ = call.ParseLaunchLimit(pod.Annotations[call.LaunchLimitAnnotation])
	return m
}

// serves reports whether the pod can take calls, as far as Kubernetes knows. A pod that was
// unlocked counts like any other.
func (m *member) serves() bool { return m.isUp() && (m.State == call.Serving || m.unlocked()) }

// servesYet reports the same for a pod that is set aside, which takes calls until it
// drains.
func (m *member) servesYet() bool { return m.isUp() && m.State == call.Aside }

func (m *member) isUp() bool {
	return m.ready && m.Running && !m.Terminating && m.draining.IsZero()
}

// unlocked reports whether the pod is released for another reason than that it should go:
// by an unlock, or by whoever created it before its namespace was enabled. Its witnesses
// were not asked, so the guard does not delete it.
func (m *member) unlocked() bool {
	by := call.Intent(m.Labels[call.ReleasedLabel])
	return call.IsReleased(m.Labels) && (by == call.Unlock || !slices.Contains(call.Intents(), by))
}

// notFollowed returns the kind of the pod's controller if the guard cannot tell what that
// controller wants; otherwise empty.
func (m *member) notFollowed() string {
	ref := metav1.GetControllerOfNoCopy(m.object)
	switch {
	case ref == nil || inApps(*ref):
		return ""
	case m.followed:
		return ""
	default:
		return ref.Kind
	}
}

// inApps reports whether an owner is of a kind that the guard follows whoever has installed it.
func inApps(ref metav1.OwnerReference) bool {
	return ref.APIVersion == appsGroup && slices.Contains([]string{pods.ReplicaSet, pods.Deployment, pods.StatefulSet, daemonSet}, ref.Kind)
}

// owned reports whether the pod counts as one of an owner's replicas.
func (m *member) owned(by *owner) bool { return !m.Terminating && m.owner == by }

// inPlace returns why a pod cannot be set aside; empty if it can, or is already.
func (s *snapshot) inPlace(m *member) string {
	ref := metav1.GetControllerOfNoCopy(m.object)
	switch {
	case m.aside:
		return ""
	case ref == nil:
		return "it has no owner that would replace it"
	case ref.Kind != pods.ReplicaSet:
		return "a " + ref.Kind + " replaces a pod only when it is gone"
	case m.owner == nil:
		return "its ReplicaSet is not known"
	case m.owner.controller == nil:
		return "its ReplicaSet has no controller"
	case m.owner.hash == "" || m.owner.hash != call.HashLabel(m.Labels):
		return "its ReplicaSet does not select pods by label " + hashLabel
	}
	if top := s.owners[m.owner.controller.UID]; top != nil && top.recreate {
		return "the strategy of its Deployment is Recreate"
	}
	return ""
}

// orphaned reports whether an owner up the chain is gone or going, or a pod that is
// aside has none left.
func (s *snapshot) orphaned(m *member) bool {
	ref := metav1.GetControllerOfNoCopy(m.object)
	if ref == nil {
		return m.aside
	}
	for range 2 {
		o := s.owners[ref.UID]
		switch {
		case o == nil:
			return s.gone[ref.UID]
		case o.going:
			return true
		case o.controller == nil:
			return false
		}
		ref = o.controller
	}
	return false
}

// mayBeOrphaned reports whether a pod may be orphaned, for a snapshot that cannot tell what
// is gone. A live read has to confirm it.
func (s *snapshot) mayBeOrphaned(m *member) bool {
	if s.gone != nil {
		return s.orphaned(m)
	}
	guess := &snapshot{owners: s.owners, gone: map[types.UID]bool{}}
	missing := func(ref *metav1.OwnerReference) {
		if ref != nil && s.owners[ref.UID] == nil && (ref.APIVersion == appsGroup || s.others.complete(*ref)) {
			guess.gone[ref.UID] = true
		}
	}
	missing(metav1.GetControllerOfNoCopy(m.object))
	if m.owner != nil {
		missing(m.owner.controller)
	}
	return guess.orphaned(m)
}

// excess is how many pods an owner has too many: n of the candidates, for a reason.
type excess struct {
	owner      *owner
	intent     call.Intent
	n          int
	candidates []*member
	// why of the owner's is that, where it does not just have more pods than it wants.
	why string
}

// excesses lists how many pods each owner of the workload has too many. Pods that are
// already leaving count as chosen.
func (s *snapshot) excesses(w *workload) []excess {
	var owners []*owner
	for _, m := range w.members {
		if m.owner != nil && !slices.Contains(owners, m.owner) {
			owners = append(owners, m.owner)
		}
	}
	var list []excess
	for _, o := range owners {
		if o.going {
			continue
		}
		switch {
		case o.other:
			list = append(list, otherExcess(w, o)...)
		case o.ref.Kind == pods.ReplicaSet:
			list = append(list, s.replicaSetExcess(w, o))
		case o.ref.Kind == pods.StatefulSet:
			list = append(list, statefulSetExcess(w, o)...)
		case o.ref.Kind == daemonSet:
			list = append(list, daemonSetExcess(w, o))
		}
	}
	return slices.DeleteFunc(list, func(e excess) bool { return e.n <= 0 })
}

func (s *snapshot) replicaSetExcess(w *workload, o *owner) excess {
	e := excess{owner: o, intent: call.ScaleDown}
	if o.controller != nil {
		// With strategy Recreate no pod of the new revision exists before the old pods are gone.
		if top := s.owners[o.controller.UID]; top != nil && (top.revision != o.revision || o.replicas < top.replicas) {
			e.intent = call.Rollout
		}
	}
	active, chosen := 0, 0
	for _, m := range w.members {
		switch {
		case !m.owned(o):
			continue
		case m.State == call.Serving:
			e.candidates = append(e.candidates, m)
		case !m.unlocked():
			chosen++ // it is leaving in place
		}
		active++
	}
	e.n = min(active-chosen-o.replicas, len(e.candidates))
	return e
}

// statefulSetExcess returns the pods beyond the replicas, and the one pod of an old
// revision that its controller would replace next.
func statefulSetExcess(w *workload, o *owner) []excess {
	down := excess{owner: o, intent: call.ScaleDown}
	var old *member
	oldest, unready := -1, 0
	for _, m := range w.members {
		n, ok := ordinal(m.object)
		if !m.owned(o) || !ok {
			continue
		}
		if n < o.first || n >= o.first+o.replicas {
			if m.State == call.Serving {
				down.candidates = append(down.candidates, m)
			}
			continue
		}
		revision := m.Labels["controller-revision-hash"]
		if revision == o.revision && !m.ready {
			unready++
		}
		if o.rolls && o.revision != "" && revision != o.revision && n >= o.first+o.floor && n > oldest {
			old, oldest = m, n
		}
	}
	down.n = len(down.candidates)
	list := []excess{down}
	// Its controller goes on when the new ones are ready.
	if old != nil && old.State == call.Serving && unready < max(1, o.maxUnavailable) {
		list = append(list, excess{owner: o, intent: call.Rollout, n: 1, candidates: []*member{old}})
	}
	return list
}

// daemonSetExcess returns the first pod of an old template. The next one follows when that
// is replaced.
func daemonSetExcess(w *workload, o *owner) excess {
	e := excess{owner: o, intent: call.Rollout}
	unready := 0
	for _, m := range w.members {
		if m.owned(o) && m.Labels[daemonPodLabel] == o.revision && !m.ready {
			unready++
		}
	}
	if unready >= max(1, o.maxUnavailable) {
		return excess{} // its controller goes on when the new ones are ready
	}
	for _, m := range w.members {
		if !m.owned(o) || !o.rolls || o.revision == "" || m.Labels[daemonPodLabel] == o.revision {
			continue
		}
		if m.State != call.Serving {
			return excess{} // one at a time
		}
		// A pod that takes no calls goes first, because no other may go before it is replaced.
		if len(e.candidates) == 0 || e.candidates[0].fit() && !m.fit() {
			e.candidates, e.n = []*member{m}, 1
		}
	}
	return e
}

// fit reports whether the pod is ready and its gate does not say that it cannot take calls.
func (m *member) fit() bool { return m.ready && !m.able.why.Unable() }

// candidate returns a member in the form that verdict.Leavers takes.
func candidate(m *member, wanted bool, calls call.Reading) verdict.Candidate {
	n, known := calls.Calls()
	return verdict.Candidate{
		Name: m.Name, Node: m.Node, Running: m.Running, Ready: m.fit(), Wanted: wanted,
		Calls: n, Known: known, Newest: calls.Newest(),
	}
}

// facts returns the facts for a verdict on a member, without its witnesses.
func (w *workload) facts(s *snapshot, m *member, all *company, intent call.Mark, now time.Time, limits verdict.Limits) verdict.Facts {
	inPlace := s.inPlace(m)
	able, stuck, aside, leaving := all.others(m, inPlace != "")
	limits.Settle = max(limits.Settle, m.launchLimit)
	return verdict.Facts{
		Now: now, Intent: intent, Chosen: m.chosen,
		Pod: verdict.Pod{
			State: m.State, Running: m.Running, Ready: m.ready, InPlace: inPlace, Unable: m.useless(now),
		},
		Workload: verdict.Workload{
			Desired: w.desired, MinAvailable: w.minAvailable, Surge: w.surge, MaxUnavailable: w.maxUnavailable, Recreate: w.recreate,
			Able: able, Arrived: all.arrived(m), Coming: max(0, w.desired-1-able-stuck), Aside: aside, Leaving: leaving, Unable: all.whyUnable(m),
		},
		Deadline: m.deadline,
		Limits:   limits,
	}
}

// nodeCauses returns since when each cause of a node applies to a pod; zero if it does not.
// seen returns when a taint or field was first seen.
func nodeCauses(node *corev1.Node, pod *corev1.Pod, seen func(occasion, *metav1.Time) time.Time) (cordon, taints, lost time.Time) {
	earliest := func(a, b time.Time) time.Time {
		if a.IsZero() || b.Before(a) {
			return b
		}
		return a
	}
	for _, taint := range node.Spec.Taints {
		since := func() time.Time { return seen(taintOf(node, taint), taint.TimeAdded) }
		switch {
		case taint.Key == corev1.TaintNodeUnschedulable:
			cordon = seen(cordonOf(node), taint.TimeAdded)
		case slices.Contains(removalTaints(), taint.Key):
			taints = earliest(taints, since())
		case taint.Effect != corev1.TaintEffectNoExecute:
		default:
			after, tolerated := tolerates(pod, taint)
			switch {
			case tolerated && after < 0: // forever
			case taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable:
				lost = earliest(lost, since().Add(after))
			default:
				taints = earliest(taints, since().Add(after))
			}
		}
	}
	if node.Spec.Unschedulable && cordon.IsZero() {
		cordon = seen(cordonOf(node), nil)
	}
	return cordon, taints, lost
}

func cordonOf(node *corev1.Node) occasion { return occasion{of: node.UID, fact: cordoned} }

func taintOf(node *corev1.Node, taint corev1.Taint) occasion {
	return occasion{of: node.UID, fact: tainted, key: taint.Key}
}

// isCordoned reports whether a node is cordoned. The taint may be seen before the field
// that it stands for, or after.
func isCordoned(node *corev1.Node) bool {
	return node.Spec.Unschedulable || hasTaint(node, corev1.TaintNodeUnschedulable)
}

// cameSince reports whether a pod came to its node after everything for which the node's
// pods should go. That is only possible for a pod that the scheduler may place there, or
// that is not scheduled at all. An autoscaler's mark counts only after a while.
func cameSince(node *corev1.Node, pod *corev1.Pod, pinned bool, candidate time.Duration, later func(occasion, time.Duration) bool) bool {
	came := false
	for _, taint := range wants(node) {
		about := taintOf(node, taint)
		if taint.Key == corev1.TaintNodeUnschedulable {
			about = cordonOf(node)
		}
		taint.Effect = corev1.TaintEffectNoSchedule
		if _, tolerated := tolerates(pod, taint); !tolerated && !pinned || !later(about, 0) {
			return false
		}
		came = true
	}
	for _, c := range onlyNotices(node.Status.Conditions) {
		if !later(conditionOf(node, c), 0) {
			return false
		}
		came = true
	}
	if !came && hasTaint(node, candidateTaint) {
		return later(occasion{of: node.UID, fact: tainted, key: candidateTaint}, candidate)
	}
	return came
}

// wants returns the taints because of which a node's pods should go and no others come.
func wants(node *corev1.Node) (list []corev1.Taint) {
	if isCordoned(node) {
		list = append(list, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key != corev1.TaintNodeUnschedulable && (taint.Effect == corev1.TaintEffectNoExecute || slices.Contains(removalTaints(), taint.Key) || slices.Contains(noticeTaints(), taint.Key)) {
			list = append(list, taint)
		}
	}
	return list
}

// misfit reports whether a DaemonSet no longer wants a pod on a node, by the rules of its
// controller: its template does not match the node, or the pod does not tolerate a taint of
// it.
func misfit(ds *owner, node *corev1.Node, pod *corev1.Pod) bool {
	fits, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: ds.placed}).Match(node)
	if err != nil {
		return false // the controller cannot tell, either
	}
	return !fits || slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool {
		_, tolerated := tolerates(pod, taint)
		return taint.Effect == corev1.TaintEffectNoExecute && !tolerated
	})
}

// removalTaints returns the taints by which autoscalers announce that they remove a node.
func removalTaints() []string {
	return []string{
		"ToBeDeletedByClusterAutoscaler", // Cluster Autoscaler
		KarpenterTaint,                   // Karpenter 1
		"karpenter.sh/disruption",        // Karpenter 0.3x
	}
}

// tolerates returns for how long a pod tolerates a taint; a negative time means forever.
func tolerates(pod *corev1.Pod, taint corev1.Taint) (after time.Duration, tolerated bool) {
	shortest := time.Duration(-1)
	for _, t := range pod.Spec.Tolerations {
		if !toleration(t, taint) {
			continue
		}
		tolerated = true
		if t.TolerationSeconds == nil {
			continue
		}
		seconds := max(0, time.Duration(*t.TolerationSeconds)*time.Second)
		if shortest < 0 || seconds < shortest {
			shortest = seconds
		}
	}
	if !tolerated {
		return 0, false
	}
	return shortest, true
}

func toleration(t corev1.Toleration, taint corev1.Taint) bool {
	switch {
	case t.Effect != "" && t.Effect != taint.Effect:
		return false
	case t.Key == "":
		return t.Operator == corev1.TolerationOpExists
	case t.Key != taint.Key:
		return false
	case cmp.Or(t.Operator, corev1.TolerationOpEqual) == corev1.TolerationOpEqual:
		return t.Value == taint.Value
	default:
		return t.Operator == corev1.TolerationOpExists
	}
}
