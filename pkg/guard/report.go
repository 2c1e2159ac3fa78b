// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/events"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules/bounds"
	"github.com/callguard/callguard/pkg/verdict/rules/floor"
)

// EventSource is the component that the guard's Events name.
const EventSource = "callguard-" + call.GuardName

// The reasons of Events.
const (
	ReasonSetAside           = "SetAside"
	ReasonDraining           = "Draining"
	ReasonReleased           = "Released"
	ReasonForced             = "ForcedRelease"
	ReasonHeld               = "Held"
	ReasonNotEnabled         = "NamespaceNotEnabled"
	ReasonBadAnnotation      = "BadAnnotation"
	ReasonShortGrace         = "ShortGrace"
	ReasonForeignBudget      = "ForeignBudget"
	ReasonDeletedWhileLocked = "DeletedWhileLocked"
	ReasonBudget             = "BudgetNotInForce"
	ReasonBudgetOwner        = "BudgetOwnerMissing"
	ReasonUnlocked           = "Unlocked"
	ReasonNotFollowed        = "OwnerNotFollowed"
	ReasonMistake            = "PodTemplateMistake"
	ReasonCannotStart        = "CannotStart"
	ReasonLeft               = "LeftToEviction"
)

// report reports what happens in Events, metrics and the log, once for each change.
type report struct {
	events record.EventRecorder
	// steps reports about pods, of which there may be thousands.
	steps *events.Outbox
	// about is the object that Events about callguard itself are on; nil for none.
	about   *corev1.ObjectReference
	metrics *metrics
	log     *slog.Logger

	mu sync.Mutex
	// held is why pods that should go are held.
	held map[types.UID]held
	// said are the complaints that were made, by the object they are about.
	said map[Key]map[string]bool
}

// held is a verdict that holds a pod, and since when it does.
type held struct {
	key   Key
	pod   types.NamespacedName
	rule  string
	cause call.Ability // what keeps other pods of its workload from taking calls, if the pod waits for them
	since time.Time
	told  bool
	// unread is since when its gate has answered without having read the order to drain; zero
	// if it has.
	unread time.Time
}

// orderUnread reports whether a pod's gate answers and has not read the order to drain.
func orderUnread(f verdict.Facts) bool {
	return f.Pod.State == call.Draining && !f.Sealed && slices.ContainsFunc(f.Readings, func(r verdict.Reading) bool {
		_, known := r.Calls()
		return known && r.Witness == call.Gate
	})
}

// budgetKind is the Kind of budgets in a Key; no workload is of that kind.
const budgetKind = "PodDisruptionBudget"

// tellAfter is how long a pod is held by one rule before there is an Event. Most holds end
// sooner.
const tellAfter = 5 * time.Second

// tellAnyway is the same where pods are likely to wait for their turn only.
const tellAnyway = time.Minute

func newReport(recorder record.EventRecorder, metrics *metrics, log *slog.Logger) *report {
	plain := events.Plain(recorder)
	return &report{events: plain, steps: events.NewOutbox(plain), metrics: metrics, log: log, held: map[types.UID]held{}, said: map[Key]map[string]bool{}}
}

// judged enters the verdicts on a workload's pods, and tells of those that changed. While more is due than can be done at once, a pod
// that waits for others of its workload probably waits for its turn, and is told of only if that takes long.
func (r *report) judged(w *workload, list []judgement, moreIsDue bool) {
	current := map[types.UID]bool{}
	for _, j := range list {
		current[j.UID] = true
		if j.verdict.Outcome == verdict.Hold {
			r.holds(w, j, moreIsDue && j.waitsForOthers())
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, h := range r.held {
		if h.key == w.key && !current[uid] {
			delete(r.held, uid)
		}
	}
}

// holdsNothing forgets what is held, because another guard leads and reports it.
func (r *report) holdsNothing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.held)
}

func (r *report) holds(w *workload, j judgement, inTurn bool) {
	r.mu.Lock()
	h, was := r.held[j.UID]
	cause := j.cause()
	if !was || h.rule != j.verdict.Rule || h.cause != cause {
		h = held{key: w.key, pod: j.NamespacedName, rule: j.verdict.Rule, cause: cause, since: j.facts.Now, unread: h.unread}
	}
	switch {
	case !orderUnread(j.facts):
		h.unread = time.Time{}
	case h.unread.IsZero():
		h.unread = j.facts.Now
	}
	patience := tellAfter
	if inTurn {
		patience = tellAnyway
	}
	tell := !h.told && j.facts.Now.Sub(h.since) >= patience
	h.told = h.told || tell
	r.held[j.UID] = h
	r.mu.Unlock()
	if !tell {
		return
	}
	r.log.Info("Pod is held", "pod", j.NamespacedName.String(), "intent", j.intent.Intent, "rule", j.verdict.Rule, "why", j.verdict.Why)
	step := events.Step{Type: corev1.EventTypeNormal, Reason: ReasonHeld, What: "stays", Why: j.verdict.Why + j.aboutNode(), Weight: events.Lasting}
	if j.facts.Notice != "" { // its calls may end soon
		step.Type, step.Weight = corev1.EventTypeWarning, events.Notable
	}
	r.tell(w, j, step)
}

// cause returns what keeps the others of the workload from taking calls, if a pod waits for
// them. When it changes, something else has to be fixed.
func (j judgement) cause() call.Ability {
	if j.waitsForOthers() {
		return j.facts.Workload.Unable.Why
	}
	return ""
}

// waitsForOthers reports whether a pod is held until others of its workload take calls.
func (j judgement) waitsForOthers() bool {
	return j.verdict.Rule == floor.Rule{}.Name() || j.verdict.Rule == bounds.Rule{}.Name()
}

// stepped reports that a pod has made a step.
func (r *report) stepped(w *workload, j judgement) {
	r.mu.Lock()
	delete(r.held, j.UID)
	r.mu.Unlock()
	step := events.Step{Type: corev1.EventTypeNormal, Why: j.verdict.Why}
	switch j.verdict.Outcome {
	case verdict.SetAside:
		step.Reason, step.What = ReasonSetAside, "is set aside"
		if node := j.aboutNode(); node != "" {
			step.Why, step.Weight = step.Why+node, events.Notable
		}
	case verdict.Drain:
		step.Reason, step.What = ReasonDraining, "stopped accepting calls"
		if j.verdict.Rule != (floor.Rule{}).Name() { // the pod drains for another reason than enough able pods
			step.Weight = events.Notable
		}
	case verdict.Release:
		step.Reason, step.What, step.Weight = ReasonReleased, "may go", events.Final
		r.metrics.releases.WithLabelValues(string(j.intent.Intent)).Inc()
		if since := j.facts.Pod.DrainingSince; !since.IsZero() {
			r.metrics.held.WithLabelValues(string(j.intent.Intent)).Observe(j.facts.Now.Sub(since).Seconds())
		}
	default:
		return
	}
	if j.verdict.Forced {
		step.Type, step.Reason, step.Weight = corev1.EventTypeWarning, ReasonForced, events.Notable
		r.metrics.forced.Inc()
		// This line is for audits.
		r.log.Warn("Pod is released by force", "pod", j.NamespacedName.String(), "uid", j.UID, "intent", j.intent.Intent,
			"rule", j.verdict.Rule, "why", j.verdict.Why, "readings", describe(j.facts.Readings))
	} else {
		r.log.Info("Pod changed state", "pod", j.NamespacedName.String(), "intent", j.intent.Intent, "step", j.verdict.Outcome, "rule", j.verdict.Rule, "why", j.verdict.Why)
	}
	r.tell(w, j, step)
}

func describe(list []verdict.Reading) (out []string) {
	for _, r := range list {
		n, known := r.Calls()
		switch {
		case known:
			out = append(out, fmt.Sprintf("%s: %d calls", r.Witness, n))
		case r.Spared():
			out = append(out, fmt.Sprintf("%s: not asked (%s)", r.Witness, r.Reason()))
		default:
			out = append(out, fmt.Sprintf("%s: unknown (%s)", r.Witness, r.Reason()))
		}
	}
	return out
}

// tell reports a step on a pod, on its workload and, if the node is the reason, on the
// node.
func (r *report) tell(w *workload, j judgement, step events.Step) {
	m := j.member
	step.Pod, step.What = m.NamespacedName, fmt.Sprintf("%s (%s)", step.What, j.intent.Intent)
	var others []*corev1.ObjectReference
	if w.key.UID != m.UID {
		others = append(others, reference(w.key))
	}
	if m.Node != "" && m.causes.OfNode() {
		// kubectl describe node looks for its Events by name.
		others = append(others, &corev1.ObjectReference{Kind: "Node", Name: m.Node, UID: types.UID(m.Node), APIVersion: "v1"})
	}
	r.steps.Tell(j.facts.Now, m.object, step, others...)
}

func reference(key Key) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: key.APIVersion, Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, UID: key.UID}
}

// mostSaid is how many texts are remembered for one workload or budget, because teams can
// change their annotations as often as they like. Beyond it nothing is reported until they
// are forgotten.
const mostSaid = 50

// once reports whether a text about a workload or budget is new.
func (r *report) once(about Key, what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said[about][what] || len(r.said[about]) >= mostSaid {
		return false
	}
	if r.said[about] == nil {
		r.said[about] = map[string]bool{}
	}
	r.said[about][what] = true
	return true
}

// sayAnew forgets the texts about objects that have reached mostSaid.
func (r *report) sayAnew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.said, func(_ Key, said map[string]bool) bool { return len(said) >= mostSaid })
}

// complainedOf lists the workloads and budgets about which there were complaints.
func (r *report) complainedOf() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.said))
}

// forgetSaid drops the texts about a workload or budget.
func (r *report) forgetSaid(about Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.said, about)
}

// complaints reports what is wrong with the settings of a workload and its pods, once for
// each workload and text.
func (r *report) complaints(w *workload, drainTimeout time.Duration) {
	if w.complaint != nil && r.once(w.key, w.complaint.Error()) {
		r.events.Eventf(reference(w.key), corev1.EventTypeWarning, ReasonBadAnnotation, "%s; until then all replicas must be available", w.complaint)
	}
	for _, m := range w.members {
		if m.unlocked() && r.once(w.key, "unlocked") {
			r.events.Eventf(reference(w.key), corev1.EventTypeWarning, ReasonUnlocked,
				"pods created before the unlock, such as %s, are still unprotected; to protect them again, replace them: kubectl rollout restart", m.Name)
		}
		if kind := m.notFollowed(); kind != "" && r.once(w.key, "not followed") {
			r.events.Eventf(reference(w.key), corev1.EventTypeWarning, ReasonNotFollowed,
				"callguard does not follow a %s: pods of it, such as %s, leave when their node is drained, but not when it scales down, rolls out or is deleted; if it has a scale subresource, name it in drainGuard.owners of callguard's chart; let such a pod leave with: kubectl annotate pod %s %s=",
				kind, m.Name, m.Name, call.LeaveAnnotation)
		}
		for _, err := range m.complaints {
			if r.once(w.key, err.Error()) {
				r.log.Warn("Invalid annotation; its default applies", "workload", w.key.String(), "err", err)
				r.events.Eventf(reference(w.key), corev1.EventTypeWarning, ReasonBadAnnotation, "%s; until then its default applies", err)
			}
		}
		for _, text := range mistakes(m.object) {
			if r.once(w.key, text) {
				r.events.Event(reference(w.key), corev1.EventTypeWarning, ReasonMistake, text)
			}
		}
		if why := CannotStart(m.object); why != "" {
			r.cannotStart(w.key, m.Name, why)
		}
		grace := m.object.Spec.TerminationGracePeriodSeconds
		if grace == nil || m.Terminating || time.Duration(*grace)*time.Second >= drainTimeout {
			continue
		}
		if text := fmt.Sprintf("terminationGracePeriodSeconds is %d, shorter than the %s an agent may take to finish its calls; use %d",
			*grace, drainTimeout, int(drainTimeout.Seconds())); r.once(w.key, text) {
			r.events.Event(reference(w.key), corev1.EventTypeWarning, ReasonShortGrace, text)
		}
	}
}

// cannotStart tells that pods of a workload lack what they name.
func (r *report) cannotStart(key Key, pod, why string) {
	if r.once(key, why) {
		r.events.Eventf(reference(key), corev1.EventTypeWarning, ReasonCannotStart, "pods such as %s cannot start: %s; they are not replaced, and a drain waits for them; create what is missing", pod, why)
	}
}

// notEnabled tells that a workload is labelled where its label has no effect.
func (r *report) notEnabled(key Key) {
	if r.once(key, "not enabled") {
		r.events.Eventf(reference(key), corev1.EventTypeWarning, ReasonNotEnabled,
			"label %s has no effect here: namespace %s is not enabled; an administrator enables it with: kubectl label namespace %s %s=true",
			call.GuardedLabel, key.Namespace, key.Namespace, call.EnabledLabel)
	}
}

// leftToEviction reports that a pod is not deleted because nothing would create it again.
func (r *report) leftToEviction(w *workload, m *member) {
	if r.once(w.key, "left to an eviction") {
		r.events.Eventf(m.object, corev1.EventTypeNormal, ReasonLeft,
			"Pod %s holds no call and accepts none. It is left to an eviction, because it has no owner that would recreate it; evict it with: kubectl drain %s", m.NamespacedName, m.Node)
	}
}

func budgetKey(pdb *policyv1.PodDisruptionBudget) Key {
	return Key{
		NamespacedName: types.NamespacedName{Namespace: pdb.Namespace, Name: pdb.Name},
		APIVersion:     policyv1.SchemeGroupVersion.String(), Kind: budgetKind, UID: pdb.UID,
	}
}

// foreignBudget reports that another budget matches a guarded pod.
func (r *report) foreignBudget(pdb *policyv1.PodDisruptionBudget, pod *corev1.Pod) {
	if !r.once(budgetKey(pdb), "foreign") {
		return
	}
	text := fmt.Sprintf("PodDisruptionBudget %s/%s matches pods that callguard guards, such as %s: Kubernetes answers evictions of pods with two budgets with 500, on which kubectl drain gives up; delete it, and use annotation %s of the workload",
		pdb.Namespace, pdb.Name, pod.Name, call.MinAvailableAnnotation)
	r.log.Warn("Another PodDisruptionBudget matches guarded pods", "budget", pdb.Namespace+"/"+pdb.Name, "pod", pod.Name)
	r.events.Event(pdb, corev1.EventTypeWarning, ReasonForeignBudget, text)
	r.events.Event(pod, corev1.EventTypeWarning, ReasonForeignBudget, text)
}

// budgetLost reports that no budget locks the guarded pods of a namespace.
func (r *report) budgetLost(namespace string, why error) {
	r.log.Warn("The PodDisruptionBudget of a namespace is not in effect; no pod of it is released", "namespace", namespace, "err", why)
	r.events.Eventf(&corev1.ObjectReference{APIVersion: policyv1.SchemeGroupVersion.String(), Kind: budgetKind, Namespace: namespace, Name: BudgetName},
		corev1.EventTypeWarning, ReasonBudget, "Guarded pods of namespace %s are not locked against evictions by a PodDisruptionBudget, and none is released: %s; drain-guard makes it again", namespace, why)
}

// ownerMissing reports that the owner of the budgets is missing.
func (r *report) ownerMissing() {
	r.log.Warn("The owner of the PodDisruptionBudgets is missing; existing ones stay in effect, and none can be created", "clusterrole", BudgetOwner)
	if r.about != nil {
		r.events.Eventf(r.about, corev1.EventTypeWarning, ReasonBudgetOwner,
			"ClusterRole %s, which owns every PodDisruptionBudget named %s, is missing: existing ones stay in effect, and none can be created for another namespace; apply the chart again", BudgetOwner, BudgetName)
	}
}

// deletedUnreleased reports a pod that is deleted although it was locked: by break-glass,
// or because its node or namespace is deleted.
func (r *report) deletedUnreleased(pod *corev1.Pod, now time.Time) {
	if call.IsReleased(pod.Labels) || !pods.Runs(pod.Status.ContainerStatuses) {
		return
	}
	r.metrics.whileLocked.Inc()
	r.log.Warn("A locked pod was deleted despite the admission policies", "pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID)
	r.steps.Tell(now, pod, events.Step{
		Pod: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, Type: corev1.EventTypeWarning, Reason: ReasonDeletedWhileLocked,
		What: "was deleted while it was locked", Why: "by the break-glass group, or by Kubernetes because its node is gone", Weight: events.Notable,
	})
}

// disruption counts failed attempts to evict or preempt a pod, which Kubernetes records in
// its status.
func (r *report) disruption(was, is *corev1.Pod) {
	if is.DeletionTimestamp != nil {
		return
	}
	before, after := disruptionTarget(was), disruptionTarget(is)
	if after != "" && before == "" {
		r.metrics.refused.WithLabelValues(by(after)).Inc()
	}
}

func disruptionTarget(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return c.Reason
		}
	}
	return ""
}

func by(reason string) string {
	switch reason {
	case "PreemptionByScheduler":
		return "scheduler"
	case "DeletionByTaintManager":
		return "taint"
	default:
		return "other"
	}
}

// forget drops what is remembered of a pod.
func (r *report) forget(uid types.UID) {
	r.steps.Gone(uid)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, uid)
}

// holding lists why pods are held now.
func (r *report) holding() []held {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]held, 0, len(r.held))
	for _, h := range r.held {
		list = append(list, h)
	}
	return list
}
