// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
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
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/fair"
	"github.com/callguard/callguard/pkg/pods"
)

const (
	// workers is how many workloads are reconciled at the same time, and writers how many pods of each are written at the
	// same time. Written one after the other, five hundred pods would take longer than their readings stay valid.
	workers = 8
	writers = 16
	// least bounds, with share, the pods of a workload that one look takes a step with: so many, or one in share of the workload,
	// for a look costs what the workload has. The next look comes at once: those whose replacements are ready meanwhile, or
	// whose calls are over, do not wait until hundreds of others have been set aside.
	least, share = 2 * writers, 25
	// again is how soon a workload is looked at again while something wants a pod of it to go.
	again = time.Second
	// atOnce is the pause if there is more to do than one look does. It limits requests to the API server when informers lag
	// behind and looks find their steps already done.
	atOnce = 100 * time.Millisecond
	// forgetEvery is how often complaints about objects that are gone are dropped.
	forgetEvery = time.Hour
)

// What holds pods besides the rules of package verdict, because it does not depend on the
// pod: admission policies that are not in effect, and steps that the API server refuses.
const (
	RuleDoors = "doors"
	RuleWrite = "write"
)

// Config is what a Guard needs.
type Config struct {
	Client kubernetes.Interface
	// Doors reports whether the admission policies are in effect; see admission.Verifier.
	Doors Gatekeeper
	// Witnesses are asked about pods that should go.
	Witnesses map[call.Witness]Witness
	// Dynamic reads owners of the kinds of Settings.Owners. Nil where there are none.
	Dynamic dynamic.Interface
	// Projects is told which LiveKit projects such pods work for, when these were born, and of
	// which projects nobody has to know anything for now.
	Projects func(wanted map[call.Project]call.Births, spared map[call.Project]bool)
	Settings

	Recorder record.EventRecorder
	// About is the object that Events about callguard itself are on: the guard's
	// Deployment. Nil for none.
	About    *corev1.ObjectReference
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Gatekeeper returns why the admission policies are not in effect; nil if they are.
type Gatekeeper interface{ InForce() error }

// Guard moves pods through their steps.
type Guard struct {
	cfg      Config
	planner  *planner
	cluster  *cluster
	leases   *leases
	live     *liveReader
	readings *readings
	// gates asks the gates of pods that stay, and on which pods that leave rely. Nil if gates
	// cannot be asked.
	gates   *readings
	steps   *steps
	writes  *writes
	budgets *budgets
	report  *report
	now     func() time.Time
	writers int
	// large is how many pods make a workload large.
	large int
	// awaited is how often informers are asked for the last step with a large workload before its pods are listed.
	awaited int

	// turns shares the workers among workloads, because reconciling may wait for witnesses.
	turns *fair.Turns[Key]

	mu sync.Mutex
	// queue holds the workloads to reconcile; nil while this guard does not lead.
	queue workqueue.TypedRateLimitingInterface[Key]
	// keys has the workload of each pod that is being read.
	keys map[types.UID]Key
	// deleted are the pods that were deleted; informers may not have seen that yet.
	deleted map[types.UID]time.Time
	// failed is when the latest step with a pod failed.
	failed map[types.UID]time.Time
}

// New returns a Guard that does nothing until Watch and Lead are called.
func New(cfg Config) (*Guard, error) {
	g := assemble(cfg, newReport(cfg.Recorder, newMetrics(cfg.Registry), cfg.Log))
	g.report.about = cfg.About
	var err error
	g.live.others = newOthers(cfg.Dynamic, cfg.Client, cfg.Owners, cfg.Log)
	g.cluster, err = newCluster(cfg.Client, g.live.others, changes{
		pod: g.podChanged, node: g.nodeChanged, namespace: g.namespaceChanged, owner: g.ownerChanged, budget: g.budgetChanged,
		budgetOwner: func(_, _ metav1.Object) { g.budgets.lookAtAll() },
	})
	if err != nil {
		return nil, err
	}
	g.planner.dates.synced = g.cluster.ready
	g.budgets = newBudgets(cfg.Client, g.cluster, g.report)
	cfg.Registry.MustRegister(&podCollector{cluster: g.cluster, budgets: g.budgets, report: g.report, now: g.clock})
	return g, nil
}

// assemble creates a Guard without the parts that watch the cluster.
func assemble(cfg Config, report *report) *Guard {
	g := &Guard{
		cfg: cfg, now: time.Now, report: report,
		steps:  &steps{client: cfg.Client, costs: cfg.DeletionCosts},
		writes: newWrites(), turns: fair.NewTurns[Key](workers), writers: writers, large: large, awaited: awaited,
		keys: map[types.UID]Key{}, deleted: map[types.UID]time.Time{}, failed: map[types.UID]time.Time{},
	}
	g.leases, g.live = newLeases(cfg.Client, g.clock), newLiveReader(cfg.Client)
	g.readings = newReadings(cfg.Witnesses, cfg.ReadEvery, g.clock)
	g.readings.changed = g.pokePod
	if cfg.Projects != nil {
		g.readings.projects = cfg.Projects
	}
	by := known{node: g.node, onNode: g.onNode, calls: g.readings.of, lease: g.leases.expired}
	if gate := cfg.Witnesses[call.Gate]; gate != nil {
		g.gates = newReadings(map[call.Witness]Witness{call.Gate: gate}, cfg.ReadEvery, g.clock)
		g.gates.changed = g.pokePod
		by.ability = g.ability
	}
	g.planner = newPlanner(cfg.Settings, by, g.clock)
	return g
}

func (g *Guard) clock() time.Time { return g.now() }

func (g *Guard) node(name string) *corev1.Node {
	node, err := g.cluster.nodes.Get(name)
	if err != nil {
		return nil // a lister's only error is that the object does not exist
	}
	return node
}

func (g *Guard) onNode(name string) []*corev1.Pod { return g.cluster.onNode(name) }

// ability returns what a pod's gate said, when it was asked for its ability or for its
// calls.
func (g *Guard) ability(uid types.UID) (call.Ability, time.Time) {
	if said, since := g.gates.ability(uid); said != "" {
		return said, since
	}
	return g.readings.ability(uid)
}

// Watch keeps the guard's view of the cluster up to date until ctx is done. It writes
// nothing.
func (g *Guard) Watch(ctx context.Context) error {
	g.cluster.run(ctx)
	return nil
}

// mostLocked is the maximum number of pods that Locked returns.
const mostLocked = 10

// Locked returns a few locked pods, of different namespaces.
func (g *Guard) Locked() (found []*corev1.Pod) {
	list, _ := g.cluster.pods.List(labels.Everything()) // from memory
	seen := map[string]bool{}
	for _, pod := range list {
		if len(found) == mostLocked {
			break
		}
		if !seen[pod.Namespace] && admission.Locked(pod) && g.cluster.enabled(pod.Namespace) {
			seen[pod.Namespace] = true
			found = append(found, pod)
		}
	}
	return found
}

// IsNode reports whether a node has this address.
func (g *Guard) IsNode(addr netip.Addr) bool { return pods.IsNode(g.cluster.nodes, addr) }

// Ready returns nil once everything that existed at the start is known and the admission
// policies are in effect.
func (g *Guard) Ready() error {
	if !g.cluster.ready() {
		return errors.New("the guarded pods are still being read")
	}
	return g.cfg.Doors.InForce()
}

// Projects returns the LiveKit projects that guarded pods name, and when these pods were
// created.
func (g *Guard) Projects() map[call.Project]call.Births {
	named := map[call.Project]call.Births{}
	list, err := g.cluster.pods.List(labels.Everything())
	if err != nil {
		return named // an informer's list does not fail
	}
	for _, pod := range list {
		if m := (&snapshot{}).member(pod); g.cluster.enabled(pod.Namespace) && m.Asks(call.Rooms) {
			named[m.Project] = named[m.Project].With(m.Born)
		}
	}
	return named
}

// Lead keeps the budgets and moves pods until ctx is done. It can be called again then. One
// Guard of a cluster leads at a time. If two believe that they lead, no pod is released
// wrongly, because each step is valid only for the pod as it was seen. But each counts the
// pods that are aside or draining by itself, so one pod too many may be set aside.
func (g *Guard) Lead(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[Key](50*time.Millisecond, 10*time.Second))
	g.planner.dates.leads()
	g.setQueue(queue)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		g.setQueue(nil)
		queue.ShutDown()
		return nil
	})
	group.Go(func() error { return g.readings.run(ctx) })
	if g.gates != nil {
		group.Go(func() error { return g.gates.run(ctx) })
	}
	group.Go(func() error { return g.budgets.run(ctx) })
	group.Go(func() error { g.report.steps.Run(ctx); return nil })
	group.Go(func() error { return watchRefusals(ctx, g.cfg.Client, g.report) })
	group.Go(func() error { return watchMounts(ctx, g.cfg.Client, g.cannotMount) })
	group.Go(func() error {
		wait.UntilWithContext(ctx, func(context.Context) { g.forgetGone() }, forgetEvery)
		return nil
	})
	if g.cfg.DeletionCosts {
		group.Go(func() error { return g.keepCosts(ctx) })
	}
	g.turns = fair.NewTurns[Key](workers)
	for range workers {
		group.Go(func() error {
			for {
				key, shutdown := queue.Get()
				if shutdown {
					return nil
				}
				for has := g.turns.Take(key.Namespace, key, g.rank(key)); has; key, has = g.turns.Give(key.Namespace) {
					g.work(ctx, queue, key)
					queue.Done(key)
				}
			}
		})
	}
	g.lookAtAll()
	defer g.report.holdsNothing()
	return group.Wait()
}

// Leads reports whether this guard leads. Only the leader reports what all guards see.
func (g *Guard) Leads() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue != nil
}

func (g *Guard) setQueue(q workqueue.TypedRateLimitingInterface[Key]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = q
}

// look enqueues a workload, if this guard leads.
func (g *Guard) look(key Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue != nil {
		g.queue.Add(key)
	}
}

// lookAtAll enqueues every workload that exists.
func (g *Guard) lookAtAll() {
	list, err := g.cluster.pods.List(labels.Everything())
	if err != nil {
		return // an informer's list does not fail
	}
	for _, pod := range list {
		g.enqueue(pod)
	}
}

// rank decides whose turn comes first. Small workloads come before large ones, because a look at them is short. Of these, the ones
// that have begun are brought to their end before others begin, then come those with call-gate, whose pods need not wait for
// --settle.
func (g *Guard) rank(key Key) int {
	known, err := g.cluster.cached(key)
	has := func(is func(*corev1.Pod) bool) bool { return slices.ContainsFunc(known.pods, is) }
	switch {
	case err != nil || len(known.pods) >= g.large:
		return 0
	case has(func(pod *corev1.Pod) bool { return pod.Annotations[call.AsideAnnotation] != "" }):
		return fair.Highest
	case has(func(pod *corev1.Pod) bool { return pod.Annotations[call.GatePortAnnotation] != "" }):
		return fair.Highest - 1
	default:
		return fair.Highest - 2
	}
}

func (g *Guard) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[Key], key Key) {
	after, err := g.reconcile(ctx, key)
	switch {
	case ctx.Err() != nil:
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		queue.AddRateLimited(key) // the objects have changed meanwhile
	case err != nil:
		g.cfg.Log.Warn("Reconcile failed; retrying", "workload", key.String(), "err", err)
		queue.AddRateLimited(key)
	default:
		queue.Forget(key)
		if after > 0 {
			queue.AddAfter(key, after)
		}
	}
}

// plan returns what has to be done with a workload, and requests the readings that the next
// plan needs.
func (g *Guard) plan(ctx context.Context, s *snapshot, w *workload) plan {
	p := g.planner.plan(s, w)
	g.mu.Lock()
	for _, list := range [][]*member{p.asked, p.compared, p.gates} {
		for _, m := range list {
			g.keys[m.UID] = w.key
		}
	}
	g.mu.Unlock()
	itself := func(m *member) *call.Pod { return m.Pod }
	g.readings.wantAll(listed(p.asked, itself), false)
	g.readings.wantAll(listed(p.compared, itself), true)
	if len(p.gates) > 0 { // otherwise gates may not be readable
		g.gates.wantAll(listed(p.gates, (*member).askable), true)
	}
	for _, node := range p.leases {
		g.leases.read(ctx, node)
	}
	return p
}

func listed(members []*member, as func(*member) *call.Pod) (list []*call.Pod) {
	for _, m := range members {
		list = append(list, as(m))
	}
	return list
}

// reconcile looks at a workload, does what is due, and returns when to look again.
func (g *Guard) reconcile(ctx context.Context, key Key) (after time.Duration, err error) {
	if !g.cluster.ready() {
		return again, nil
	}
	if !g.cluster.enabled(key.Namespace) {
		g.report.judged(&workload{key: key}, nil, false) // nobody holds its pods any more
		g.notEnabled(key)
		return 0, nil
	}
	was, err := g.cluster.cached(key)
	if err != nil {
		return 0, err
	}
	s, w := was, was.workload(key)
	g.report.complaints(w, g.cfg.AgentDrainTimeout)
	plan := g.plan(ctx, s, w)
	if err := errors.Join(g.cfg.Doors.InForce(), g.budgets.inForce(key.Namespace)); err != nil && plan.busy() {
		plan.shut(err)
		g.report.judged(w, plan.judged, false)
		return again, nil
	}
	if plan.moves() {
		// Steps that affect the group are decided on a live read.
		asked := plan.drains()
		if asked {
			g.askGatesNow(ctx, w)
		}
		var is current
		if was, is, err = g.asOfNow(ctx, key, was); err != nil {
			return 0, err
		}
		began := g.now()
		if s, err = g.live.live(ctx, key, was, is); err != nil {
			return 0, err
		}
		if top := s.owners[key.UID]; is.owners == nil && top != nil && top.selector != "" {
			g.writes.reads(key, ownersRead{at: began, selector: top.selector})
		}
		w = s.workload(key)
		if plan = g.plan(ctx, s, w); plan.drains() && !asked {
			g.askGatesNow(ctx, w)
			w = s.workload(key)
			plan = g.plan(ctx, s, w)
		}
	}
	err = g.each(len(plan.released), func(i int) error { return g.collect(ctx, w, plan.released[i]) })
	most := max(least, len(s.pods)/share)
	order := plan.order(most, g.failedAt)
	if plan.steps() > most {
		plan.again = atOnce
	}
	err = errors.Join(err, g.each(len(order), func(i int) error { return g.act(ctx, s, w, order[i]) }))
	g.report.judged(w, plan.judged, plan.steps() > most || g.turns.Waits(key.Namespace))
	return plan.again, err
}

// each calls do for n pods, several at a time, and returns the errors in order.
func (g *Guard) each(n int, do func(i int) error) error {
	errs := make([]error, n)
	var group errgroup.Group
	group.SetLimit(g.writers)
	for i := range n {
		group.Go(func() error { errs[i] = do(i); return nil })
	}
	_ = group.Wait() // none returns an error
	return errors.Join(errs...)
}
