// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// process is a guard that runs in a world: the code of package guard, whose every request waits
// until the explorer answers it.
type process struct {
	name  string
	w     *world
	guard *Guard
	view  store // what its informers have seen
	// started means that they have seen all that existed at the start.
	started bool
	tasks   []*task
	// swept is when LiveKit was last read, and which pods had an agent in a room then. It is not read
	// while the guard does not need it.
	swept  truths
	spared bool
}

type truths struct {
	at   time.Time
	busy []types.UID
}

// task is a goroutine of a guard: a look at the workload, or a reading of a pod.
type task struct {
	name string
	told uint64 // hash of everything that it was told so far

	mu      sync.Mutex
	waiting []*question
	done    bool
	killed  bool
}

// question is something that a task waits for.
type question struct {
	verb, name string
	uid        types.UID
	body       []byte
	answer     chan answer
}

type answer struct {
	pod     *corev1.Pod
	pods    []corev1.Pod
	reading call.Reading
	err     error
}

type taskKey struct{}

var errKilled = errors.New("the guard was killed")

// handOver hands a request to the explorer and waits for the answer.
func handOver(ctx context.Context, r *question) answer {
	t, _ := ctx.Value(taskKey{}).(*task)
	r.answer = make(chan answer, 1)
	t.mu.Lock()
	if t.killed {
		t.mu.Unlock()
		return answer{err: errKilled, reading: call.Unknown("killed")}
	}
	t.waiting = append(t.waiting, r)
	t.mu.Unlock()
	return <-r.answer
}

// newProcess is a guard that has just started.
func newProcess(w *world, name string, view store) *process {
	p := &process{name: name, w: w}
	p.guard = p.build()
	p.see(view)
	return p
}

// build assembles a Guard as New does, with the explorer in place of informers, queues and clock.
func (p *process) build() *Guard {
	w := p.w
	witnesses := map[call.Witness]Witness{call.Rooms: modelWitness{call.Rooms}, call.Worker: modelWitness{call.Worker}}
	if w.counted || w.gated && !w.mutant.readyIsAble {
		witnesses[call.Gate] = modelWitness{call.Gate}
	}
	log := slog.New(slog.DiscardHandler)
	g := assemble(Config{
		Client: modelClient{w: w}, Doors: modelDoors{w}, Witnesses: witnesses, Settings: w.settings, Log: log,
		Projects: func(_ map[call.Project]call.Births, spared map[call.Project]bool) {
			p.spared = spared[call.DefaultProject]
		},
	}, newReport(noEvents{}, w.metrics, log))
	g.now = func() time.Time { return w.now }
	if w.known {
		g.large, g.awaited = 1, 0 // what it does while it waits does not matter
	}
	g.queue, g.writers = noQueue{}, 1 // one pod after the other, to limit the number of worlds
	g.budgets = steadfast()
	g.planner.dates.synced = func() bool { return p.started }
	if w.mutant.rules != nil {
		g.planner.rules = w.mutant.rules(g.planner.rules)
	}
	for _, r := range []*readings{g.readings, g.gates} {
		if r != nil {
			r.changed, r.queue, r.lingers = func(types.UID) {}, noDelays{}, 0
		}
	}
	return g
}

// modelDoors are missing for a while.
type modelDoors struct{ w *world }

// InForce implements Gatekeeper.
func (d modelDoors) InForce() error {
	if d.w.now.Sub(d.w.began) < d.w.hard.doorsLost {
		return errors.New("somebody has deleted one")
	}
	return nil
}

// informed returns informers that have seen this much.
func (w *world) informed(s store) *cluster {
	key := s.key()
	if c := w.views[key]; c != nil {
		return c
	}
	index := func(objs ...runtime.Object) cache.Indexer {
		i := cache.NewIndexer(cache.MetaNamespaceKeyFunc, indexers())
		_ = i.AddIndexers(cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}) // works while the index is empty
		for _, o := range objs {
			_ = i.Add(o) // it fails only without a valid key
		}
		return i
	}
	pods := index()
	for _, pod := range s.pods {
		_ = pods.Add(pod)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: modelNamespace, Labels: map[string]string{call.EnabledLabel: "true"}}}
	old := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: oldNode, UID: "node-1"}, Spec: corev1.NodeSpec{Unschedulable: s.cordoned}}
	fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: freshNode, UID: "node-2"}}
	c := &cluster{
		pods: corelisters.NewPodLister(pods), podIndex: pods,
		nodes: corelisters.NewNodeLister(index(old, fresh)), namespaces: corelisters.NewNamespaceLister(index(namespace)),
	}
	deployments, replicaSets, statefulSets := index(), index(), index()
	if s.deployment != nil {
		_ = deployments.Add(s.deployment)
	}
	for _, rs := range s.replicaSets() {
		_ = replicaSets.Add(rs)
	}
	if s.statefulSet != nil {
		_ = statefulSets.Add(s.statefulSet)
	}
	c.deployments, c.replicaSets, c.replicaSetIndex = appslisters.NewDeploymentLister(deployments), appslisters.NewReplicaSetLister(replicaSets), replicaSets
	c.statefulSets = appslisters.NewStatefulSetLister(statefulSets)
	w.views[key] = c
	return c
}

// clone copies a guard that is not at work into another world.
func (p *process) clone(w *world) *process {
	c := newProcess(w, p.name, p.view)
	for o, seen := range dated(p.guard) {
		c.guard.planner.dates.enter(o, seen)
	}
	c.guard.deleted, c.guard.failed = maps.Clone(p.guard.deleted), maps.Clone(p.guard.failed)
	c.swept, c.spared = p.swept, p.spared
	c.guard.writes.last, c.guard.writes.read = maps.Clone(p.guard.writes.last), maps.Clone(p.guard.writes.read)
	from, to := p.kept(), c.kept()
	for i := range from {
		for uid, e := range from[i].records {
			copied := *e
			copied.last = maps.Clone(e.last)
			to[i].records[uid] = &copied
		}
	}
	return c
}

// kept returns all readings of a guard.
func (p *process) kept() []*readings {
	if p.guard.gates == nil {
		return []*readings{p.guard.readings}
	}
	return []*readings{p.guard.readings, p.guard.gates}
}

// key is the same for two guards that will do the same.
func (p *process) key(b *strings.Builder) {
	fmt.Fprintf(b, "%s %s|%s", p.name, p.view.key(), p.memory())
	if p.w.counted {
		fmt.Fprintf(b, "|%t %d %v", p.spared, p.swept.at.UnixMilli(), p.swept.busy)
	}
	for _, t := range p.tasks {
		fmt.Fprintf(b, "|%s %x", t.name, t.told)
		for _, r := range t.waiting {
			b.WriteString(" " + r.verb)
		}
	}
}

// memory is what a guard remembers and uses.
func (p *process) memory() string {
	var b strings.Builder
	var seen []string
	for o, s := range dated(p.guard) {
		if !p.w.bounded() && slices.Contains([]fact{there, isWanted, stands, isUnready}, o.fact) {
			continue // its time does not matter
		}
		seen = append(seen, fmt.Sprintf("%v %d %t|", o, s.at.UnixMilli(), s.ordered))
	}
	slices.Sort(seen)
	b.WriteString(strings.Join(seen, ""))
	if p.w.known {
		for _, last := range p.guard.writes.last {
			fmt.Fprintf(&b, "wrote %s %s %d|", last.pod, last.version, last.began.UnixMilli())
		}
	}
	for key := range p.guard.writes.read {
		if last := p.guard.writes.lastRead(key, p.w.now); last != nil {
			fmt.Fprintf(&b, "read %d|", last.at.UnixMilli())
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(p.guard.deleted)) {
		fmt.Fprintf(&b, "deleted %s %d|", uid, p.guard.deleted[uid].UnixMilli())
	}
	// Failed steps only affect their order, and no world has steps for two pods at once.
	for _, uid := range slices.Sorted(maps.Keys(p.guard.readings.records)) {
		e := p.guard.readings.records[uid]
		// A record is dropped after 10 s, longer than the clock ever moves here.
		quiet := e.first
		if e.began.After(quiet) {
			quiet = e.began
		}
		fmt.Fprintf(&b, "%s %d", uid, quiet.UnixMilli())
		for _, name := range call.DefaultWitnesses() {
			last := e.last[name]
			n, known := last.Calls()
			fmt.Fprintf(&b, " %d %t %d", n, known, last.At().UnixMilli())
		}
		if last, ok := e.last[call.Gate]; ok {
			n, known := last.Calls()
			fmt.Fprintf(&b, " %d %t %t %d %d %t", n, known, last.Sealed(), last.At().UnixMilli(), last.Since.UnixMilli(), e.needs(p.w.now))
		}
	}
	if gates := p.guard.gates; gates != nil {
		for _, uid := range slices.Sorted(maps.Keys(gates.records)) {
			fmt.Fprintf(&b, "gate %s %s|", uid, gates.records[uid].ability)
		}
	}
	return b.String()
}

// start makes a guard begin something and runs it up to its first request.
func (p *process) start(name string, do func(context.Context)) {
	t := &task{name: name}
	p.tasks = append(p.tasks, t)
	slices.SortFunc(p.tasks, func(a, b *task) int { return strings.Compare(a.name, b.name) })
	t.hear(p, "start "+p.view.key())
	ctx := context.WithValue(context.Background(), taskKey{}, t)
	go func() {
		do(ctx)
		t.mu.Lock()
		t.done = true
		t.mu.Unlock()
	}()
	p.settle()
}

// settle waits until all tasks of a guard are done or wait for an answer.
func (p *process) settle() {
	synctest.Wait()
	p.tasks = slices.DeleteFunc(p.tasks, func(t *task) bool { return t.done })
	for _, t := range p.tasks {
		slices.SortFunc(t.waiting, func(a, b *question) int {
			return cmp.Or(strings.Compare(a.verb, b.verb), strings.Compare(string(a.uid), string(b.uid)))
		})
	}
}

// hear records what a task was told, and what else it may have seen since.
func (t *task) hear(p *process, what string) {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%x %s %d %s %t", t.told, what, p.w.now.UnixMilli(), p.memory(), p.view.cordoned)
	t.told = h.Sum64()
}

// kill ends a guard as SIGKILL does: pending requests have no effect any more.
func (p *process) kill() {
	for _, t := range p.tasks {
		t.mu.Lock()
		t.killed = true
		waiting := t.waiting
		t.waiting = nil
		t.mu.Unlock()
		for _, r := range waiting {
			r.answer <- answer{err: errKilled, reading: call.Unknown("killed")}
		}
	}
	p.settle()
}

// reconciling is the name of the task that handles the workload.
const reconciling = "looks"

// actions lists what a guard can do next.
func (p *process) actions() (list []action) {
	add := func(name string, do func()) { list = append(list, action{p.name + " " + name, do}) }
	w := p.w
	at := func(name string) bool {
		return slices.ContainsFunc(p.tasks, func(t *task) bool { return t.name == name })
	}
	if !at(reconciling) {
		add(reconciling, func() {
			if !w.slowReads {
				p.readAll(fine)
			}
			p.start(reconciling, p.look)
		})
		if w.left.lies > 0 && !w.slowReads && len(p.guard.readings.records) > 0 {
			add(reconciling+" while no witness answers", func() {
				w.left.lies--
				p.readAll(unknown)
				p.start(reconciling, p.look)
			})
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(p.guard.readings.records)) {
		if name := "reads " + string(uid); w.slowReads && !at(name) {
			add(name, func() { p.start(name, func(ctx context.Context) { p.guard.readings.read(ctx, uid) }) })
		}
	}
	if is := p.sweep(); w.counted && !p.spared && len(p.guard.readings.records) > 0 && (!is.at.Equal(p.swept.at) || !slices.Equal(is.busy, p.swept.busy)) {
		add("has LiveKit read", func() { p.swept = is })
	}
	for _, t := range p.tasks {
		for _, r := range t.waiting {
			for _, outcome := range p.outcomes(r) {
				add(fmt.Sprintf("%s: %s %s%s: %s", t.name, r.verb, r.name, r.uid, outcome), func() { p.serve(t, r, outcome) })
			}
		}
	}
	if p.view.version != w.store.version {
		add("sees", func() { p.see(w.store) })
	}
	if w.left.kills > 0 && p.name == "A" {
		again := func(s store) func() {
			return func() {
				w.left.kills--
				p.kill()
				w.guards[slices.Index(w.guards, p)] = newProcess(w, p.name, s)
			}
		}
		add("is killed and starts again", again(w.store))
		if p.view.version != w.store.version {
			// Informers may list from the cache of an API server that is behind.
			add("is killed and starts again with what it saw", again(p.view))
		}
	}
	return list
}

// readAll reads all wanted pods, at once.
func (p *process) readAll(outcome string) {
	for _, r := range p.kept() {
		for _, uid := range slices.Sorted(maps.Keys(r.records)) {
			p.start("reads", func(ctx context.Context) { r.read(ctx, uid) })
			for i := 0; i < len(p.tasks); {
				if t := p.tasks[i]; t.name != "reads" {
					i++
				} else {
					p.serve(t, t.waiting[0], outcome)
				}
			}
		}
	}
}

// sweep is LiveKit's current list.
func (p *process) sweep() truths {
	is := truths{at: p.w.now}
	for _, uid := range slices.Sorted(maps.Keys(p.w.agents)) {
		if p.w.agents[uid].room {
			is.busy = append(is.busy, uid)
		}
	}
	return is
}

// see advances what a guard's informers know.
func (p *process) see(s store) {
	p.view, p.guard.cluster = s, p.w.informed(s)
	for _, pod := range s.pods {
		p.guard.planner.dates.first(occasion{of: pod.UID, fact: there})
	}
	if s.cordoned {
		p.guard.planner.dates.first(occasion{of: "node-1", fact: cordoned})
	} else {
		p.guard.planner.dates.since(occasion{of: "node-1", fact: cordoned}, false)
	}
	p.started = true
}

// look is one look at the workload.
func (p *process) look(ctx context.Context) {
	s := p.w.store
	key := Key{NamespacedName: types.NamespacedName{Namespace: modelNamespace, Name: "web"}, APIVersion: appsGroup, Kind: "Deployment", UID: "deployment"}
	switch {
	case s.statefulSet != nil:
		key.Kind, key.UID = "StatefulSet", "statefulset"
	case s.deployment == nil && s.replicaSet == nil: // the pods still name their owner
		key.Kind, key.Name, key.UID = "ReplicaSet", "web-h", "replicaset"
	}
	_, _ = p.guard.reconcile(ctx, key) // it looks again after any error
}

// The outcomes of a request.
const (
	fine      = "ok"
	failed    = "fails"
	lost      = "takes effect and fails"
	conflicts = "conflict"
	unknown   = "unknown"
	stale     = "stale"
)

// outcomes are the possible outcomes of a request.
func (p *process) outcomes(r *question) []string {
	list := []string{fine}
	switch r.verb {
	case "PATCH", "DELETE":
		if p.w.left.faults > 0 {
			list = append(list, failed, lost, conflicts)
		}
	case "GET", "LIST":
		if p.w.left.faults > 0 {
			list = append(list, failed)
		}
	default:
		if p.w.left.lies > 0 {
			list = append(list, unknown)
			if a, ok := p.w.agents[r.uid]; ok && !p.w.counted && (a.past.job != a.job || a.past.room != a.room) {
				list = append(list, stale)
			}
		}
	}
	return list
}

// serve answers a request, and runs the guard to its next one.
func (p *process) serve(t *task, r *question, outcome string) {
	w := p.w
	var a answer
	failure := apierrors.NewInternalError(errors.New("injected"))
	switch r.verb {
	case "GET", "LIST":
		switch {
		case outcome == failed:
			w.left.faults--
			a.err = failure
		case r.verb == "LIST":
			from := w.store
			if w.mutant.cachedLists {
				from = p.view
			}
			for _, pod := range from.pods {
				a.pods = append(a.pods, *pod)
			}
		default:
			if a.pod = w.store.pod(r.name); a.pod == nil {
				a.err = notFound(r.name)
			}
		}
	case "PATCH", "DELETE":
		if outcome != fine {
			w.left.faults--
		}
		if outcome == fine || outcome == lost {
			a = w.write(r)
		}
		switch outcome {
		case failed, lost:
			a = answer{err: failure}
		case conflicts:
			a = answer{err: conflict(r.name)}
		}
	default:
		if a.reading = w.witness(call.Witness(r.verb), r.uid, outcome); w.counted && r.verb == string(call.Rooms) && outcome == fine {
			a.reading = p.lists(r.uid)
		}
		if outcome != fine && t.name != "reads" {
			w.left.lies--
		}
	}
	n, known := a.reading.Calls()
	heard := fmt.Sprintf("%s %s %d %t %d %t %s %t", r.verb, outcome, n, known, a.reading.At().UnixMilli(), a.err != nil, a.reading.Ability(), a.reading.Sealed())
	if a.pod != nil {
		heard += podKey(a.pod)
	}
	for i := range a.pods {
		heard += podKey(&a.pods[i])
	}
	t.waiting = slices.DeleteFunc(t.waiting, func(other *question) bool { return other == r })
	t.hear(p, heard)
	r.answer <- a
	p.settle()
}

// write applies what a guard writes.
func (w *world) write(r *question) answer {
	if pod := w.store.pod(r.name); pod != nil && w.clean && (r.uid == "" || r.uid == pod.UID) {
		w.writes[pod.UID]++
		if n := w.writes[pod.UID]; n > 5 {
			w.fail("the guard writes pod %s for the %dth time", pod.Name, n)
		}
	}
	if r.verb == "DELETE" {
		return answer{err: w.remove(r.name, r.uid, "a guard")}
	}
	body := r.body
	if w.mutant.body != nil {
		body = w.mutant.body(body)
	}
	pod, err := w.patch(r.name, body)
	return answer{pod: pod, err: err}
}

// witness is a witness's answer about a pod.
func (w *world) witness(name call.Witness, uid types.UID, outcome string) call.Reading {
	a, ok := w.agents[uid]
	is := truth{w.now, a.job, a.room}
	if outcome == stale {
		is = a.past
	}
	if !ok || outcome == unknown {
		if w.mutant.unknownIsZero {
			return call.Known(0, w.now)
		}
		return call.Unknown("it does not answer")
	}
	if name == call.Gate && w.counted {
		if a.accepted || a.job {
			return call.Known(1, w.now).WithAbility(call.Able)
		}
		reading := call.Known(0, w.now).WithAbility(call.Able)
		if a.heeded {
			return reading.WithSeal()
		}
		return reading
	}
	if name == call.Gate {
		if a.able {
			return call.Known(0, w.now).WithAbility(call.Able)
		}
		return call.Known(0, w.now).WithAbility(call.NoWorker)
	}
	n := 0
	if name == call.Rooms && is.room || name == call.Worker && is.job {
		n = 1
	}
	return call.Known(n, is.at)
}

// lists is LiveKit's list about a pod when it was last read.
func (p *process) lists(uid types.UID) call.Reading {
	switch {
	case p.swept.at.IsZero():
		return call.Unknown("LiveKit has not been read yet")
	case slices.Contains(p.swept.busy, uid):
		return call.Known(1, p.swept.at)
	default:
		return call.Known(0, p.swept.at)
	}
}

type modelWitness struct{ name call.Witness }

func (m modelWitness) Ask(ctx context.Context, pod *call.Pod) call.Reading {
	return handOver(ctx, &question{verb: string(m.name), uid: pod.UID}).reading
}

// modelClient is the part of an API server's client that a guard uses. The explorer controls when
// pods are read and written; owners do not change, so it does not matter when they are read. Any
// other request panics.
type modelClient struct {
	kubernetes.Interface

	w *world
}

func (c modelClient) CoreV1() coreclient.CoreV1Interface { return modelCore{w: c.w} }

func (c modelClient) AppsV1() appsclient.AppsV1Interface { return modelApps{w: c.w} }

type modelCore struct {
	coreclient.CoreV1Interface

	w *world
}

func (m modelCore) Pods(string) coreclient.PodInterface { return modelPods{w: m.w} }

type modelPods struct {
	coreclient.PodInterface

	w *world
}

func (modelPods) Get(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Pod, error) {
	a := handOver(ctx, &question{verb: "GET", name: name})
	return a.pod, a.err
}

func (m modelPods) List(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
	if strings.HasSuffix(o.LabelSelector, call.GuardedLabel+"!=true") {
		return m.w.strangers(), nil
	}
	a := handOver(ctx, &question{verb: "LIST"})
	return &corev1.PodList{Items: a.pods}, a.err
}

func (modelPods) Patch(ctx context.Context, name string, kind types.PatchType, body []byte, _ metav1.PatchOptions, sub ...string) (*corev1.Pod, error) {
	if kind != types.MergePatchType || len(sub) > 0 {
		return nil, fmt.Errorf("a patch of type %s of %v is not what the model knows", kind, sub)
	}
	a := handOver(ctx, &question{verb: "PATCH", name: name, body: body})
	return a.pod, a.err
}

func (modelPods) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	r := &question{verb: "DELETE", name: name}
	if options.Preconditions != nil && options.Preconditions.UID != nil {
		r.uid = *options.Preconditions.UID
	}
	return handOver(ctx, r).err
}

type modelApps struct {
	appsclient.AppsV1Interface

	w *world
}

func (m modelApps) Deployments(string) appsclient.DeploymentInterface {
	return modelDeployments{w: m.w}
}

func (m modelApps) ReplicaSets(string) appsclient.ReplicaSetInterface {
	return modelReplicaSets{w: m.w}
}

func (m modelApps) StatefulSets(string) appsclient.StatefulSetInterface {
	return modelStatefulSets{w: m.w}
}

type modelDeployments struct {
	appsclient.DeploymentInterface

	w *world
}

func (m modelDeployments) Get(_ context.Context, name string, _ metav1.GetOptions) (*appsv1.Deployment, error) {
	if d := m.w.store.deployment; d != nil {
		return d, nil
	}
	return nil, apierrors.NewNotFound(appsv1.Resource("deployments"), name)
}

type modelReplicaSets struct {
	appsclient.ReplicaSetInterface

	w *world
}

func (m modelReplicaSets) List(context.Context, metav1.ListOptions) (*appsv1.ReplicaSetList, error) {
	list := &appsv1.ReplicaSetList{}
	for _, r := range m.w.store.replicaSets() {
		list.Items = append(list.Items, *r)
	}
	return list, nil
}

func (m modelReplicaSets) Get(_ context.Context, name string, _ metav1.GetOptions) (*appsv1.ReplicaSet, error) {
	for _, r := range m.w.store.replicaSets() {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, apierrors.NewNotFound(appsv1.Resource("replicasets"), name)
}

// replicaSets returns the existing ones.
func (s store) replicaSets() (list []*appsv1.ReplicaSet) {
	for _, rs := range []*appsv1.ReplicaSet{s.replicaSet, s.next} {
		if rs != nil {
			list = append(list, rs)
		}
	}
	return list
}

type modelStatefulSets struct {
	appsclient.StatefulSetInterface

	w *world
}

func (m modelStatefulSets) Get(_ context.Context, name string, _ metav1.GetOptions) (*appsv1.StatefulSet, error) {
	if t := m.w.store.statefulSet; t != nil {
		return t, nil
	}
	return nil, apierrors.NewNotFound(appsv1.Resource("statefulsets"), name)
}

type noEvents struct{ record.EventRecorder }

func (noEvents) Event(runtime.Object, string, string, string)          {}
func (noEvents) Eventf(runtime.Object, string, string, string, ...any) {}

type noQueue struct {
	workqueue.TypedRateLimitingInterface[Key]
}

func (noQueue) Add(Key) {}

type noDelays struct {
	workqueue.TypedDelayingInterface[types.UID]
}

func (noDelays) Add(types.UID) {}

// mutant is a guard that is broken on purpose.
type mutant struct {
	body          func([]byte) []byte // of a PATCH
	rules         func(verdict.Rules) verdict.Rules
	unknownIsZero bool
	cachedLists   bool
	readyIsAble   bool // ask no gate
}

// without drops fields from the metadata of a PATCH.
func without(fields ...string) func([]byte) []byte {
	return func(body []byte) []byte {
		var doc map[string]map[string]any
		if err := json.Unmarshal(body, &doc); err != nil {
			return body
		}
		for _, field := range fields {
			delete(doc["metadata"], field)
		}
		body, _ = json.Marshal(doc) // it was decoded from JSON
		return body
	}
}
