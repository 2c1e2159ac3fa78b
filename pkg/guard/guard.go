// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules"
)

const (
	// workers bounds the workloads that are looked at at once.
	workers = 4
	// again is how soon a workload is looked at again while something wants a pod of it to go.
	again = time.Second
	// choosing is how soon it is looked at while witnesses are asked which pods to choose.
	choosing = 200 * time.Millisecond
	// chooseWithin bounds that: it goes by what is known then. Two reads of LiveKit
	// begin within it.
	chooseWithin = 10 * time.Second
	// forgetEvery is how often complaints are dropped about what is gone.
	forgetEvery = time.Hour
	// deletedFor is how long the guard remembers that it has deleted a pod.
	deletedFor = time.Minute
)

// RuleDoors names what holds every pod while the doors are not in force. It is no
// rule of package verdict, for it is not about a pod.
const RuleDoors = "doors"

// Config is what a Guard needs.
type Config struct {
	Client kubernetes.Interface
	// Doors says whether the admission policies are in force; see Doors.
	Doors Gatekeeper
	// Witnesses are asked of pods that something wants to go.
	Witnesses map[call.Witness]Witness
	// Projects is told which LiveKit projects such pods work for.
	Projects func(map[call.Project]bool)
	Settings

	Recorder record.EventRecorder
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Gatekeeper says why the doors are not in force; nil when they are.
type Gatekeeper interface{ InForce() error }

// Guard leads pods along their road.
type Guard struct {
	cfg      Config
	rules    verdict.Rules
	cluster  *cluster
	readings *readings
	steps    *steps
	budgets  *budgets
	report   *report
	now      func() time.Time
	// once has plan answer with what is known now: nobody waits for witnesses.
	once bool

	mu sync.Mutex
	// queue holds the workloads to look at; nil while this guard does not lead.
	queue workqueue.TypedRateLimitingInterface[Key]
	// seen dates what carries no time of its own, by what it is.
	seen map[string]time.Time
	// keys says of which workload a pod is that is being read.
	keys map[types.UID]Key
	// deleted are the pods that were deleted and may not be seen to be so yet.
	deleted map[types.UID]time.Time
}

// New returns a Guard that does nothing until Watch and Lead.
func New(cfg Config) (*Guard, error) {
	g := &Guard{
		cfg: cfg, rules: rules.All(), now: time.Now,
		seen: map[string]time.Time{}, keys: map[types.UID]Key{}, deleted: map[types.UID]time.Time{},
	}
	g.report = newReport(cfg.Recorder, cfg.Registry, cfg.Log)
	g.steps = &steps{client: cfg.Client, costs: cfg.DeletionCosts}
	g.readings = newReadings(cfg.Witnesses, cfg.ReadEvery, func() time.Time { return g.now() })
	g.readings.changed = g.pokePod
	if cfg.Projects != nil {
		g.readings.projects = cfg.Projects
	}
	var err error
	g.cluster, err = newCluster(cfg.Client, changes{
		pod: g.podChanged, node: g.nodeChanged, namespace: g.namespaceChanged, owner: g.ownerChanged, budget: g.budgetChanged,
	})
	if err != nil {
		return nil, err
	}
	g.budgets = newBudgets(cfg.Client, g.cluster, g.report)
	cfg.Registry.MustRegister(&podCollector{cluster: g.cluster, budgets: g.budgets, report: g.report, now: func() time.Time { return g.now() }})
	return g, nil
}

// Watch keeps what is known of the cluster true until ctx is done. It writes
// nothing.
func (g *Guard) Watch(ctx context.Context) error {
	g.cluster.run(ctx)
	return nil
}

// Ready returns nil once everything that was there at the start is known and the
// doors are in force.
func (g *Guard) Ready() error {
	if !g.cluster.ready() {
		return errors.New("the guarded pods are still being read")
	}
	return g.cfg.Doors.InForce()
}

// Lead keeps the budgets and leads pods until ctx is done. It can be called again
// then. One Guard of a cluster leads at a time. Should two believe that they do, no
// pod goes wrong on its road: each step holds only for the pod as it was seen. What
// counts across pods, how many are aside or draining, each counts by itself, so that
// one more than is wanted may step aside.
func (g *Guard) Lead(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[Key](50*time.Millisecond, 10*time.Second))
	g.setQueue(queue)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		g.setQueue(nil)
		queue.ShutDown()
		return nil
	})
	group.Go(func() error { return g.readings.run(ctx) })
	group.Go(func() error { return g.budgets.run(ctx) })
	group.Go(func() error { return watchRefusals(ctx, g.cfg.Client, g.report) })
	group.Go(func() error {
		wait.UntilWithContext(ctx, func(context.Context) { g.forgetGone() }, forgetEvery)
		return nil
	})
	if g.cfg.DeletionCosts {
		group.Go(func() error { return g.keepCosts(ctx) })
	}
	for range workers {
		group.Go(func() error {
			for {
				key, shutdown := queue.Get()
				if shutdown {
					return nil
				}
				g.work(ctx, queue, key)
				queue.Done(key)
			}
		})
	}
	g.lookAtAll()
	defer g.report.holdsNothing()
	return group.Wait()
}

// leads says whether this guard leads: of all that see something, it tells.
func (g *Guard) leads() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue != nil
}

func (g *Guard) setQueue(q workqueue.TypedRateLimitingInterface[Key]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = q
}

// look looks after a workload soon, if this guard leads.
func (g *Guard) look(key Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue != nil {
		g.queue.Add(key)
	}
}

// lookAtAll looks after every workload that is there.
func (g *Guard) lookAtAll() {
	list, err := g.cluster.pods.List(labels.Everything())
	if err != nil {
		return // an informer's list does not fail
	}
	for _, pod := range list {
		g.enqueue(pod)
	}
}

func (g *Guard) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[Key], key Key) {
	after, err := g.reconcile(ctx, key)
	switch {
	case ctx.Err() != nil:
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		queue.AddRateLimited(key) // the world moved on
	case err != nil:
		g.cfg.Log.Warn("A workload cannot be looked after; trying again", "workload", key.String(), "err", err)
		queue.AddRateLimited(key)
	default:
		queue.Forget(key)
		if after > 0 {
			queue.AddAfter(key, after)
		}
	}
}

// reconcile looks at a workload, does what is due, and says when to look again.
func (g *Guard) reconcile(ctx context.Context, key Key) (after time.Duration, err error) {
	if !g.cluster.ready() {
		return again, nil
	}
	if !g.cluster.enabled(key.Namespace) {
		g.report.judged(&workload{key: key}, nil) // nobody holds its pods any more
		g.notEnabled(key)
		return 0, nil
	}
	s, err := g.cluster.cached(key.Namespace)
	if err != nil {
		return 0, err
	}
	w := s.workload(key)
	g.report.complaints(w, g.cfg.AgentDrainTimeout)
	plan := g.plan(ctx, s, w)
	if err := g.cfg.Doors.InForce(); err != nil && plan.busy() {
		plan.shut(err)
		g.report.judged(w, plan.judged)
		return again, nil
	}
	if plan.moves() {
		// What concerns the group is decided on what is true now.
		if s, err = live(ctx, g.cfg.Client, key.Namespace); err != nil {
			return 0, err
		}
		w = s.workload(key)
		plan = g.plan(ctx, s, w)
	}
	g.report.judged(w, plan.judged)
	for _, j := range plan.judged {
		err = errors.Join(err, g.act(ctx, s, w, j))
	}
	for _, m := range plan.released {
		err = errors.Join(err, g.collect(ctx, w, m))
	}
	return plan.again, err
}

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

// plan judges every member of a workload, each in the light of what is decided
// about those before it.
func (g *Guard) plan(ctx context.Context, s *snapshot, w *workload) plan {
	now := g.now()
	var p plan
	for _, m := range w.members {
		m.causes = g.causes(s, m)
	}
	if waiting := g.choose(s, w, now); waiting {
		p.again = choosing
	}
	for _, m := range w.members {
		_, m.wanted = verdict.Intent(m.causes, now, g.cfg.RemovalDelay)
	}
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
		if marked := g.dated("draining "+string(m.UID), m.State == call.Draining); marked.After(f.QuietSince) {
			// Not the time in the mark: it was taken before the mark was written, and
			// that may have taken any time.
			f.QuietSince = marked
		}
		if intent.Intent == call.LostNode {
			f.LeaseExpired, f.LeaseUnread = g.leaseExpired(ctx, m.Node, now)
		}
		v := g.rules.Judge(f)
		p.judged = append(p.judged, judgement{member: m, intent: intent, facts: f, verdict: v})
		m.foresee(v)
	}
	if p.busy() && p.again == 0 {
		p.again = again
	}
	return p
}

// foresee enters what a verdict is about to make of a member, so that the next
// verdict counts with it.
func (m *member) foresee(v verdict.Verdict) {
	switch v.Outcome {
	case verdict.SetAside:
		m.aside = true
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
	c.Orphaned = g.dated("orphan "+string(m.UID), s.mayBeOrphaned(m))
	if ref := metav1.GetControllerOfNoCopy(m.object); ref != nil {
		c.Daemon = ref.Kind == daemonSet
	}
	_, asked := m.object.Annotations[call.LeaveAnnotation]
	c.Asked = g.dated("leave "+string(m.UID), asked)
	if node, err := g.cluster.nodes.Get(m.Node); err == nil {
		c.Cordoned, c.Tainted, c.Lost = nodeCauses(node, m.object, g.firstSeen)
	}
	return c
}

// choose picks those that go where an owner has more pods than it wants, by what
// witnesses have said since: a call that ended just before must not count for its
// pod. It says whether it still waits for them.
func (g *Guard) choose(s *snapshot, w *workload, now time.Time) (waiting bool) {
	excesses := s.excesses(w)
	for _, m := range w.members {
		if m.owner != nil && !slices.ContainsFunc(excesses, func(e excess) bool { return e.owner == m.owner }) {
			g.dated(excessOf(m.owner.ref.UID), false)
		}
	}
	for _, e := range excesses {
		since := g.dated(excessOf(e.owner.ref.UID), true)
		if e.n < len(e.candidates) {
			known := true
			for _, m := range e.candidates {
				g.watch(w.key, m)
				list, _ := g.readings.of(m.Pod)
				known = known && (!m.Running || knownSince(list, since))
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

// act carries out a verdict.
func (g *Guard) act(ctx context.Context, s *snapshot, w *workload, j judgement) error {
	var err error
	switch j.verdict.Outcome {
	case verdict.SetAside:
		if s.gone == nil {
			return nil // decided on what may be old
		}
		_, err = g.steps.setAside(ctx, j.object, *j.owner.controller, call.Mark{Intent: j.intent.Intent, At: g.now()})
	case verdict.Drain:
		if s.gone == nil {
			return nil
		}
		// A mark holds whole seconds. It must not lie before the step: what was read
		// between the two would count as read after it.
		at := g.now().Add(time.Second - 1).Truncate(time.Second)
		_, err = g.steps.drain(ctx, j.object, call.Mark{Intent: j.intent.Intent, At: at})
	case verdict.Release:
		return g.release(ctx, w, j)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot let pod %s/%s go on (%s): %w", j.Namespace, j.Name, j.verdict.Outcome, err)
	}
	g.report.stepped(w, j)
	return nil
}

// release judges once more, on the pod as it is and on witnesses asked just now,
// and lets the pod go if they agree.
func (g *Guard) release(ctx context.Context, w *workload, j judgement) error {
	pod, err := g.cfg.Client.CoreV1().Pods(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if pod.UID != j.UID || pod.DeletionTimestamp != nil {
		return nil
	}
	if !j.verdict.Forced {
		fresh := (&snapshot{}).member(pod)
		f := j.facts
		f.Pod.State, f.Pod.Running, f.Pod.Ready, f.Pod.Drained = fresh.State, fresh.Running, fresh.ready, fresh.drained
		if fresh.Running {
			var quiet time.Time
			f.Readings, quiet = g.readings.fresh(ctx, j.Pod)
			f.Sealed = sealed(f.Readings)
			if quiet.After(f.QuietSince) {
				f.QuietSince = quiet
			}
		}
		f.Now = g.now()
		if v := g.rules.Judge(f); v.Outcome != verdict.Release || v.Forced {
			return nil // the next look tells why
		}
	}
	if _, err := g.steps.release(ctx, pod, j.intent.Intent); err != nil {
		return fmt.Errorf("cannot release pod %s/%s: %w", j.Namespace, j.Name, err)
	}
	g.report.stepped(w, j)
	g.look(w.key)
	return nil
}

// collect deletes a released pod that nobody takes: at once after a scale-down, a
// rollout or the end of its owner, where nobody will.
func (g *Guard) collect(ctx context.Context, w *workload, m *member) error {
	patience := g.cfg.ReleasePatience
	switch call.Intent(m.Labels[call.ReleasedLabel]) {
	case call.ScaleDown, call.Rollout, call.Orphan:
		patience = 0
	default:
	}
	if g.now().Sub(g.firstSeen("release "+string(m.UID))) < patience || !g.deletes(m.UID) {
		return nil
	}
	if err := g.steps.delete(ctx, m.object); err != nil {
		g.forgetDelete(m.UID)
		return fmt.Errorf("cannot delete released pod %s/%s: %w", m.Namespace, m.Name, err)
	}
	g.cfg.Log.Info("Deleted a released pod", "pod", m.NamespacedName.String(), "workload", w.key.String())
	return nil
}

// deletes says that a pod is to be deleted now, once.
func (g *Guard) deletes(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	maps.DeleteFunc(g.deleted, func(_ types.UID, at time.Time) bool { return now.Sub(at) > deletedFor })
	if _, done := g.deleted[uid]; done {
		return false
	}
	g.deleted[uid] = now
	return true
}

func (g *Guard) forgetDelete(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.deleted, uid)
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
	g.mu.Lock()
	defer g.mu.Unlock()
	pod, cordon := g.seen[podSeen(m.UID)], g.seen[cordonSeen(node.UID)]
	return !pod.IsZero() && pod.Before(cordon)
}

func podSeen(pod types.UID) string { return "pod " + string(pod) }

func cordonSeen(node types.UID) string { return "cordon of " + string(node) }

func excessOf(owner types.UID) string { return "excess of " + string(owner) }

// firstSeen is when something without a time of its own was first seen.
func (g *Guard) firstSeen(what string) time.Time { return g.dated(what, true) }

// dated is when something was first seen to hold; zero while it does not.
func (g *Guard) dated(what string, holds bool) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !holds {
		delete(g.seen, what)
		return time.Time{}
	}
	at, ok := g.seen[what]
	if !ok {
		at = g.now()
		g.seen[what] = at
	}
	return at
}
