// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// The world of the guards of TestInterleavings: what etcd holds, the agents in the pods, and
// everybody else who acts on them. Only one action happens at a time, and the explorer
// chooses the next.
//
// What is assumed, and not explored:
//   - A mark reaches its agent, and an offer that the agent has accepted becomes a
//     call, within the settle window after the mark was written. In it, any order.
//   - Where gates count calls, a mark reaches its gate at any time. A gate answers what is so
//     when it is asked; that a pod has the order and no job, it never takes back.
//   - There LiveKit is read at any time that a guard does not spare it, and a guard is told
//     what was read last, however long ago that was.
//   - A container that starts after the mark was written knows of it.
//   - The kubelet writes that a container runs, or does not, when it is so.
//   - No pod is made under the name of another while an eviction of that one is
//     under way: the handler takes milliseconds, and asks for no UID.

const (
	modelNamespace = "voice"
	modelSettle    = 2 * time.Second
	// modelTick passes the settle window in two.
	modelTick = 1100 * time.Millisecond
	// modelForever is longer than any world lasts.
	modelForever = time.Hour
	oldNode      = "n1"
	freshNode    = "n2"
)

// store is what etcd holds. Objects that it points to are never changed, only replaced, so a
// copy of a store is a snapshot.
type store struct {
	version     int           // of all of it
	pods        []*corev1.Pod // by name
	cordoned    bool          // oldNode
	deployment  *appsv1.Deployment
	replicaSet  *appsv1.ReplicaSet
	next        *appsv1.ReplicaSet // of a rollout
	statefulSet *appsv1.StatefulSet
}

func (s store) pod(name string) *corev1.Pod {
	for _, pod := range s.pods {
		if pod.Name == name {
			return pod
		}
	}
	return nil
}

func (s store) byUID(uid types.UID) *corev1.Pod {
	for _, pod := range s.pods {
		if pod.UID == uid {
			return pod
		}
	}
	return nil
}

// agent is the truth about the process in a pod.
type agent struct {
	heeded   bool // knows the mark
	accepted bool // an offer that is not a call yet
	// A call begins for both witnesses at once, and ends for each separately: a job may be over
	// while its agent is still in the room, and the other way round.
	job, room bool
	// able means that its worker is registered with LiveKit, which its gate reports if it has
	// one: a pod is ready before that.
	able bool
	// marked is when the mark was written.
	marked time.Time
	// past is what was true before the clock last moved.
	past truth
}

type truth struct {
	at        time.Time
	job, room bool
}

func (a agent) busy() bool { return a.job || a.room }

// allowance limits how often each misfortune may happen. That keeps the states finite, and
// all of them are visited.
type allowance struct {
	ticks, calls, kills, crashes, cordons int
	// faults are requests of a guard that fail: before or after they take effect, or with a
	// conflict.
	faults int
	// lies are witnesses that do not answer, or answer with what was true before.
	lies int
}

// evictor is the API server's eviction handler for one client: it reads the pod, then the
// budgets, then deletes, without a lock over these.
type evictor struct {
	got     *corev1.Pod
	busy    bool // value of a label about calls when it was read
	allowed bool
}

// world is the whole state.
type world struct {
	*stage

	began   time.Time
	now     time.Time
	store   store
	agents  map[types.UID]agent
	evictor evictor
	left    allowance
	made    int // pods
	guards  []*process
	// writes counts a guard's requests that change a pod, while nothing goes wrong.
	writes map[types.UID]int
	// wrong is the first invariant that did not hold.
	wrong string
}

// stage is the part that a world does not change.
type stage struct {
	settings Settings
	metrics  *metrics
	views    map[string]*cluster // by content
	// slowReads makes the background readings tasks like others: at any time, and with anything
	// between the answers of the witnesses. Without it a guard has read everything just before
	// it looks.
	slowReads bool
	// pods is how many there are in the end, and first the one whose node is drained.
	pods  int
	first types.UID
	// drains reports that the node of the first pod is drained.
	drains bool
	// gated means that pods have a gate, and counted that it is a witness of their calls,
	// besides LiveKit.
	gated   bool
	counted bool
	// known means that guards may use informers' data while that includes their last step.
	known    bool
	maxPods  int // that are not being deleted, at any time
	maxAside int
	clean    bool // nothing goes wrong: writes are counted
	// eviction reports whether the handler deletes a pod, as it was read, when it reads the
	// budgets. Nil is callguard's budget, which selects pods that were not released at that
	// time, and allows none of them.
	eviction func(w *world) bool
	mutant   mutant
	// hard holds obstacles, such as those that keep replacements away.
	hard hardship
}

// bounded means that a pod of this world waits for others for this long, and no longer.
func (w *world) bounded() bool { return w.settings.Limits.ReplacementWait < modelForever }

func (w *world) fail(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, args...)
	}
}

func (w *world) clone() *world {
	c := *w
	c.store.pods = slices.Clone(w.store.pods)
	c.agents = maps.Clone(w.agents)
	c.writes = maps.Clone(w.writes)
	c.guards = nil
	for _, p := range w.guards {
		c.guards = append(c.guards, p.clone(&c))
	}
	return &c
}

// replace stores a pod that differs from the one with its UID.
func (w *world) replace(pod *corev1.Pod) {
	pod.ResourceVersion = nextVersion(pod.ResourceVersion)
	pods := slices.Clone(w.store.pods)
	for i := range pods {
		if pods[i].UID == pod.UID {
			pods[i] = pod
		}
	}
	w.store.pods = pods
	w.store.version++
	w.checkBounds()
}

func nextVersion(version string) string {
	n, err := strconv.Atoi(version)
	if err != nil {
		panic(fmt.Sprintf("a pod of the model has version %q", version))
	}
	return strconv.Itoa(n + 1)
}

// versionOf is the version of the nth created pod: no two pods share one. It counts per pod
// and not per cluster, so that independent actions lead to the same state in any order.
func versionOf(made, n int) string { return fmt.Sprintf("%d%03d", made, n) }

// create creates a pod of an owner.
func (w *world) create(name, node string, owner metav1.OwnerReference, labels map[string]string, running bool) *corev1.Pod {
	w.made++
	if most := w.hard.mostMade; most > 0 && w.made > most {
		w.fail("pods are made without end: this is number %d", w.made)
	}
	controller := true
	owner.Controller = &controller
	grace := int64(3600)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: modelNamespace, Name: name, UID: types.UID(fmt.Sprint("pod-", w.made)), ResourceVersion: versionOf(w.made, 0),
			Labels: maps.Clone(labels), OwnerReferences: []metav1.OwnerReference{owner}, CreationTimestamp: metav1.NewTime(w.now.Truncate(time.Second)),
		},
		Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: &grace, Tolerations: w.hard.tolerations()},
	}
	pod.Labels[call.GuardedLabel] = "true"
	if w.gated {
		pod.Annotations = map[string]string{call.GatePortAnnotation: "8089", call.WitnessesAnnotation: "rooms,worker"}
	}
	if w.counted {
		pod.Annotations = map[string]string{call.GatePortAnnotation: "8089"}
	}
	if w.hard.deadline > 0 {
		pod.Annotations = map[string]string{call.DeadlineAnnotation: w.hard.deadline.String(), call.OnDeadlineAnnotation: "Release"}
	}
	w.setRunning(pod, running)
	w.store.pods = append(slices.Clone(w.store.pods), pod)
	w.store.version++
	slices.SortFunc(w.store.pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	w.agents[pod.UID] = agent{past: truth{at: w.now}}
	w.checkBounds()
	return pod
}

func (w *world) setRunning(pod *corev1.Pod, running bool) {
	status := corev1.ContainerStatus{Name: "agent"}
	ready := corev1.ConditionFalse
	if running {
		status.State.Running = &corev1.ContainerStateRunning{}
		if !w.hard.unready {
			ready = corev1.ConditionTrue
		}
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{status},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
	}
}

func running(pod *corev1.Pod) bool { return pod.Status.ContainerStatuses[0].State.Running != nil }

func released(pod *corev1.Pod) bool { return pod.Labels[call.ReleasedLabel] != "" }

func marked(pod *corev1.Pod) bool { return pod.Annotations[call.DrainingAnnotation] != "" }

// checkBounds checks the number of pods.
func (w *world) checkBounds() {
	pods, aside := 0, 0
	for _, pod := range w.store.pods {
		if pod.DeletionTimestamp == nil {
			pods++
		}
		if strings.HasSuffix(pod.Labels[hashLabel], call.AsideSuffix) {
			aside++
		}
	}
	if pods > w.maxPods {
		w.fail("there are %d pods, more than %d", pods, w.maxPods)
	}
	if aside > w.maxAside {
		w.fail("%d pods are aside, more than %d", aside, w.maxAside)
	}
}

// patch applies a guard's PATCH of a pod, as the API server does.
func (w *world) patch(name string, body []byte) (*corev1.Pod, error) {
	was := w.store.pod(name)
	if was == nil {
		return nil, notFound(name)
	}
	var patch, doc map[string]any
	if err := json.Unmarshal(body, &patch); err != nil {
		return nil, err
	}
	if len(patch) != 1 || patch["metadata"] == nil {
		w.fail("a guard changes more than metadata: %s", body)
	}
	stored, err := json.Marshal(map[string]any{"metadata": was.ObjectMeta})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(stored, &doc); err != nil {
		return nil, err
	}
	merged, err := json.Marshal(merge(doc, patch))
	if err != nil {
		return nil, err
	}
	is := &corev1.Pod{}
	if err := json.Unmarshal(merged, is); err != nil {
		return nil, err
	}
	// An object that names another UID or version than the stored one was meant for that.
	if is.UID != was.UID || is.ResourceVersion != was.ResourceVersion {
		return nil, conflict(name)
	}
	is.Spec, is.Status = was.Spec, was.Status
	w.checkStep(was, is)
	a := w.agents[was.UID]
	if marked(is) && !marked(was) {
		a.marked = w.now
		w.agents[was.UID] = a
	}
	w.replace(is)
	return is, nil
}

// merge is RFC 7386.
func merge(doc, patch map[string]any) map[string]any {
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		switch {
		case value == nil:
			delete(doc, key)
		case isMap:
			below, ok := doc[key].(map[string]any)
			if !ok {
				below = map[string]any{}
			}
			doc[key] = merge(below, inner)
		default:
			doc[key] = value
		}
	}
	return doc
}

// checkStep checks a guard's write against the invariants.
func (w *world) checkStep(was, is *corev1.Pod) {
	a := w.agents[was.UID]
	for _, annotation := range []string{call.DrainingAnnotation, call.AsideAnnotation, call.HashAnnotation} {
		if before := was.Annotations[annotation]; before != "" && is.Annotations[annotation] != before {
			w.fail("%s of pod %s (%s) goes from %q to %q", annotation, was.Name, was.UID, before, is.Annotations[annotation])
		}
	}
	if before := was.Labels[call.ReleasedLabel]; before != "" && is.Labels[call.ReleasedLabel] != before {
		w.fail("%s of pod %s (%s) goes from %q to %q", call.ReleasedLabel, was.Name, was.UID, before, is.Labels[call.ReleasedLabel])
	}
	if w.gated && marked(is) && !marked(was) && running(was) && a.able && !w.othersAble(was) {
		w.fail("pod %s (%s) stops taking calls, and no other can take any", was.Name, was.UID)
	}
	if !released(was) && released(is) {
		if !marked(was) {
			w.fail("pod %s (%s) is released and was never told to take no call", was.Name, was.UID)
		}
		if a.busy() && w.hard.deadline == 0 {
			w.fail("pod %s (%s) is released and holds a call", was.Name, was.UID)
		}
	}
}

// othersAble reports whether another pod really accepts calls.
func (w *world) othersAble(than *corev1.Pod) bool {
	return slices.ContainsFunc(w.store.pods, func(pod *corev1.Pod) bool {
		return pod.UID != than.UID && w.agents[pod.UID].able && running(pod) && !marked(pod) && pod.DeletionTimestamp == nil
	})
}

// delete deletes a pod without admission, as the eviction handler does.
func (w *world) delete(pod *corev1.Pod, by string) {
	if pod.DeletionTimestamp != nil {
		return
	}
	if w.eviction == nil && running(pod) && !released(pod) {
		w.fail("pod %s (%s) runs, is not released, and is deleted by %s", pod.Name, pod.UID, by)
	}
	if w.agents[pod.UID].busy() && w.hard.deadline == 0 {
		w.fail("pod %s (%s) holds a call and is deleted by %s", pod.Name, pod.UID, by)
	}
	pod = pod.DeepCopy()
	pod.DeletionTimestamp = &metav1.Time{Time: w.now}
	w.replace(pod)
}

// door is the delete policy: it is evaluated on the stored pod, atomically with the
// deletion.
func door(pod *corev1.Pod) bool {
	return released(pod) || pod.DeletionTimestamp != nil || !running(pod)
}

// remove is a DELETE that the delete policy checks.
func (w *world) remove(name string, uid types.UID, by string) error {
	pod := w.store.pod(name)
	switch {
	case pod == nil:
		return notFound(name)
	case uid != "" && uid != pod.UID:
		return conflict(name)
	case !door(pod):
		return apierrors.NewForbidden(podResource(), name, fmt.Errorf("the pod may hold calls"))
	}
	w.delete(pod, by)
	return nil
}

func podResource() schema.GroupResource { return schema.GroupResource{Resource: "pods"} }

func notFound(name string) error { return apierrors.NewNotFound(podResource(), name) }

func conflict(name string) error {
	return apierrors.NewConflict(podResource(), name, fmt.Errorf("the object has been modified"))
}

// action is something that can happen now.
type action struct {
	name string
	do   func()
}

// actions lists what can happen now, except what guards do.
func (w *world) actions() (list []action) {
	add := func(name string, do func()) { list = append(list, action{name, do}) }
	for _, pod := range w.store.pods {
		a := w.agents[pod.UID]
		set := func(what string, change func(a *agent)) {
			add(string(pod.UID)+" "+what, func() {
				change(&a)
				w.agents[pod.UID] = a
				if released(pod) && a.busy() && w.hard.deadline == 0 {
					w.fail("a call begins in pod %s (%s), which is released", pod.Name, pod.UID)
				}
			})
		}
		if pod.DeletionTimestamp != nil {
			add(string(pod.UID)+" ends", func() { w.end(pod) })
			continue
		}
		if !running(pod) && !w.mayStart(pod) {
			continue
		}
		if !running(pod) {
			add(string(pod.UID)+" starts", func() {
				a = agent{heeded: marked(pod), marked: a.marked, past: a.past}
				w.agents[pod.UID] = a
				pod := pod.DeepCopy()
				w.setRunning(pod, true)
				w.replace(pod)
			})
			if pod.UID == w.first {
				add("somebody deletes "+string(pod.UID), func() {
					if err := w.remove(pod.Name, "", "somebody"); err != nil {
						w.fail("a pod that does not run is not deleted: %v", err)
					}
				})
			}
			continue
		}
		if !a.heeded && !a.accepted && !a.busy() && w.left.calls > 0 {
			set("accepts an offer", func(a *agent) { a.accepted = true; w.left.calls-- })
		}
		if a.accepted {
			set("begins a call", func(a *agent) { a.accepted, a.job, a.room = false, true, true })
		}
		if w.gated && !a.able {
			set("registers", func(a *agent) { a.able = true })
		}
		if a.job && !w.hard.endless {
			set("ends its job", func(a *agent) { a.job = false })
		}
		if a.room && !w.hard.endless {
			set("leaves its room", func(a *agent) { a.room = false })
		}
		if marked(pod) && !a.heeded {
			set("heeds the mark", func(a *agent) { a.heeded = true })
		}
		if w.left.crashes > 0 {
			add(string(pod.UID)+" crashes", func() {
				w.left.crashes--
				w.agents[pod.UID] = agent{heeded: a.heeded, marked: a.marked, past: a.past}
				pod := pod.DeepCopy()
				w.setRunning(pod, false)
				w.replace(pod)
			})
		}
	}
	switch first := w.store.byUID(w.first); {
	case w.evictor.got == nil && (first == nil || first.DeletionTimestamp != nil || w.eviction == nil && !released(first)):
		// There is nothing to evict, or what it reads now it would not evict.
	case w.evictor.got == nil:
		add("the evictor reads the pod", func() { w.evictor.got, w.evictor.busy = first, w.agents[first.UID].busy() })
	case w.eviction != nil && !w.evictor.allowed:
		add("the evictor reads the budgets", func() {
			w.evictor.allowed = w.eviction(w)
			if !w.evictor.allowed {
				w.evictor.got = nil
			}
		})
	default:
		add("the evictor deletes", func() {
			if pod := w.store.pod(w.evictor.got.Name); pod != nil {
				w.delete(pod, "an eviction")
			}
			w.evictor = evictor{}
		})
	}
	if w.left.cordons > 0 {
		add("the node is cordoned or uncordoned", func() { w.left.cordons--; w.store.cordoned = !w.store.cordoned; w.store.version++ })
	}
	if w.replenish(true) {
		add("the controller looks at its pods", func() { w.replenish(false) })
	}
	if w.left.ticks > 0 && w.mayTick() {
		add("the clock moves", func() { w.left.ticks--; w.tick() })
	}
	return list
}

// mayTick reports whether the clock may move on: what must happen within the settle window
// has happened, or there is time left.
func (w *world) mayTick() bool {
	for _, pod := range w.store.pods {
		a := w.agents[pod.UID]
		due := !w.counted && marked(pod) && pod.DeletionTimestamp == nil && running(pod) && (!a.heeded || a.accepted)
		if due && w.now.Add(modelTick).After(a.marked.Add(modelSettle)) {
			return false
		}
	}
	return true
}

func (w *world) tick() {
	for uid, a := range w.agents {
		a.past = truth{w.now, a.job, a.room}
		w.agents[uid] = a
	}
	w.now = w.now.Add(modelTick)
}

// end is the kubelet's last delete.
func (w *world) end(pod *corev1.Pod) {
	w.store.pods = slices.DeleteFunc(slices.Clone(w.store.pods), func(p *corev1.Pod) bool { return p.UID == pod.UID })
	delete(w.agents, pod.UID)
	w.store.version++
}

// replenish is the controller of the pods' owner: it creates missing pods and tries to delete
// surplus ones. It reports whether it has anything to do.
func (w *world) replenish(dry bool) bool {
	switch {
	case w.store.statefulSet != nil:
		const name = "web-0"
		if w.store.pod(name) != nil || w.evictor.got != nil {
			return false
		}
		if !dry {
			w.create(name, w.nextNode(), ownerOf(w.store.statefulSet, "StatefulSet"), map[string]string{}, true)
		}
		return true
	default:
		return w.replenishSet(w.store.replicaSet, "h", dry) || w.replenishSet(w.store.next, "i", dry)
	}
}

// nextNode is where the scheduler puts a replacement.
func (w *world) nextNode() string {
	if w.hard.returns {
		return oldNode
	}
	return freshNode
}

// replenishSet is the same for a ReplicaSet, whose pods have that hash.
func (w *world) replenishSet(rs *appsv1.ReplicaSet, hash string, dry bool) bool {
	if rs == nil {
		return false
	}
	if _, guards := rs.Spec.Template.Labels[call.GuardedLabel]; !guards {
		return false // its pods are not in this world
	}
	var active []*corev1.Pod
	for _, pod := range w.store.pods {
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.UID == rs.UID && pod.DeletionTimestamp == nil {
			active = append(active, pod)
		}
	}
	n := len(active) - int(*rs.Spec.Replicas)
	if n < 0 && (w.hard.quota == 0 || len(w.store.pods) < w.hard.quota) {
		if !dry {
			w.create(fmt.Sprint("web-", w.made+1), w.nextNode(), ownerOf(rs, "ReplicaSet"), map[string]string{hashLabel: hash}, false)
		}
		return true
	}
	if n <= 0 {
		return false
	}
	for _, pod := range active {
		if door(pod) {
			if !dry {
				_ = w.remove(pod.Name, "", "its ReplicaSet") // the policy allows it
			}
			return true
		}
	}
	return false
}

func ownerOf(obj metav1.Object, kind string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: appsGroup, Kind: kind, Name: obj.GetName(), UID: obj.GetUID()}
}

// key is the same for two worlds in which the same can happen.
func (w *world) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %+v %d %s|", w.now.UnixMilli(), w.left, w.made, w.store.key())
	for _, pod := range w.store.pods {
		a := w.agents[pod.UID]
		fmt.Fprintf(&b, "%t%t%t%t%t", a.heeded, a.accepted, a.job, a.room, a.able)
		if !a.heeded || a.accepted {
			fmt.Fprintf(&b, " %d", a.marked.UnixMilli())
		}
		if w.left.lies > 0 {
			fmt.Fprintf(&b, "%t%t %d", a.past.job, a.past.room, a.past.at.UnixMilli())
		}
		if w.clean {
			fmt.Fprintf(&b, "%d|", w.writes[pod.UID])
		}
	}
	if w.evictor.got != nil {
		fmt.Fprintf(&b, "evictor %s %t %t|", podKey(w.evictor.got), w.evictor.busy, w.evictor.allowed)
	}
	for _, p := range w.guards {
		p.key(&b)
	}
	return b.String()
}

func (s store) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%t", s.cordoned)
	for _, pod := range s.pods {
		b.WriteString(podKey(pod))
	}
	return b.String()
}

func podKey(pod *corev1.Pod) string {
	owner := ""
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		owner = string(ref.UID)
	}
	state := ""
	if running(pod) {
		state = "runs"
	}
	if pod.DeletionTimestamp != nil {
		state += " deleted"
	}
	return "(" + strings.Join([]string{
		pod.Name, string(pod.UID), pod.ResourceVersion, state, pod.Spec.NodeName,
		pod.Labels[call.ReleasedLabel], pod.Annotations[call.DrainingAnnotation], pod.Annotations[call.AsideAnnotation], owner,
	}, " ") + ")"
}
