// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Karpenter consolidates nodes as Karpenter does (commit 2266468 of August 2026): it removes empty ones, and those
// whose pods fit on others or, with others, on one cheaper node. All pods are of one size, and a node costs as much as
// it can hold. It adds only replacement nodes. A removed node keeps its object and the taint.
type Karpenter struct {
	Client kubernetes.Interface
	// Nodes selects the nodes that it manages.
	Nodes string
	// Slots is how many pods fit on a node, Sizes how many fit on the nodes that could replace one.
	Slots int
	Sizes []int
	Times KarpenterTimes
	// Budget is the percentage of the nodes that may be disrupted at a time.
	Budget int
	// Add creates a node of a size, and returns its name when it is ready.
	Add func(ctx context.Context, slots int) (node string, err error)
	// Remove removes the machine.
	Remove func(ctx context.Context, node string) error
	Log    *slog.Logger

	planner planner
	slots   map[string]int       // of nodes that it added
	going   map[string]time.Time // nodes that it deletes, and since when

	mu      sync.Mutex
	removed []string
	gaveUp  int
}

// KarpenterTimes are the times that decide when Karpenter acts.
type KarpenterTimes struct {
	// After is how long no pod must have been added to a node or removed from it (consolidateAfter).
	After time.Duration
	// Poll is the interval at which it looks for nodes, Validate how long it waits before it checks again whether a node
	// may be removed, and Drain how long a deleted node stays at least.
	Poll, Validate, Drain time.Duration
}

// RealKarpenterTimes are Karpenter's own, with its default consolidateAfter.
func RealKarpenterTimes() KarpenterTimes {
	return KarpenterTimes{
		After:    0,                // apis/v1/nodepool.go:89
		Poll:     10 * time.Second, // controllers/disruption/controller.go:71
		Validate: 15 * time.Second, // controllers/disruption/consolidation.go:45
		Drain:    5 * time.Second,  // controllers/node/termination/controller.go:62
	}
}

const (
	// podEventsEvery is the precision of its record of pods' arrivals and departures
	// (controllers/nodeclaim/podevents/controller.go:44).
	podEventsEvery = 10 * time.Second
	// mostAtOnce is how many nodes it tries to consolidate together (controllers/disruption/multinodeconsolidation.go:81).
	mostAtOnce = 100

	doNotDisrupt   = "karpenter.sh/do-not-disrupt"
	disruptedTaint = "karpenter.sh/disrupted"
)

// ending is how it treats a pod of a node that it deletes.
type ending string

const (
	evicted ending = "is evicted, again and again, and waited for"
	awaited ending = "is waited for"
	ignored ending = "is neither evicted nor waited for"
)

// disruption is one of Karpenter's decisions about a pod.
type disruption struct {
	when string
	is   func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool
	// fate applies on a node that it would like to consolidate.
	fate fate
	// ending applies on a node that it deletes; room means that it then finds room for the pod, on a new node if
	// necessary.
	ending ending
	room   bool
	source string // in kubernetes-sigs/karpenter, pkg/
}

// disruptions are tried in order, and the first that applies decides.
func disruptions() []disruption {
	pod := func(is func(*corev1.Pod) bool) func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool {
		return func(p *corev1.Pod, _ []policyv1.PodDisruptionBudget) bool { return is(p) }
	}
	return []disruption{
		{"it has ended", pod(hasEnded), goes, ignored, false, "utils/pod/scheduling.go:68"},
		{"it is being deleted", pod(func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }), lasts, awaited, false, "utils/pod/scheduling.go:44,78"},
		{"karpenter.sh/do-not-disrupt: true, also a DaemonSet's", pod(func(p *corev1.Pod) bool { return p.Annotations[doNotDisrupt] == "true" }), forbids, awaited, false, "controllers/state/statenode.go:252, utils/pod/scheduling.go:58"},
		{"of the node itself", pod(ownedBy("Node")), goes, ignored, false, "utils/pod/scheduling.go:44,58,78"},
		{"it tolerates the taint: no budget is asked", pod(toleratesDisruption), moves, ignored, true, "utils/pod/scheduling.go:60,79, utils/pdb/pdb.go:91"},
		{"it has two budgets", func(p *corev1.Pod, b []policyv1.PodDisruptionBudget) bool { return len(budgetsOf(p, b)) > 1 }, forbids, evicted, false, "utils/pdb/pdb.go:101"},
		{"its budget never allows any", blockedIf(neverAllows), forbids, evicted, false, "utils/pdb/pdb.go:124,168, controllers/disruption/helpers.go:91"},
		{"its budget allows none now", blockedIf(func(b policyv1.PodDisruptionBudget) bool { return b.Status.DisruptionsAllowed < 1 }), forbids, evicted, true, "controllers/state/statenode.go:256, utils/pdb/pdb.go:120"},
		{"a DaemonSet's", pod(ownedBy("DaemonSet")), goes, evicted, false, "utils/pod/scheduling.go:44"},
		{"any other, whoever made it", pod(func(*corev1.Pod) bool { return true }), moves, evicted, true, "utils/pod/scheduling.go:44"},
	}
}

func ownedBy(kind string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == kind })
	}
}

func hasEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func toleratesDisruption(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
		return (t.Key == disruptedTaint || t.Key == "" && t.Operator == corev1.TolerationOpExists) && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule)
	})
}

// blockedIf checks the pod's budget, unless the pod is not ready and its budget allows evicting unready pods.
func blockedIf(blocks func(policyv1.PodDisruptionBudget) bool) func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool {
	return func(p *corev1.Pod, budgets []policyv1.PodDisruptionBudget) bool {
		unready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse
		})
		return slices.ContainsFunc(budgetsOf(p, budgets), func(b policyv1.PodDisruptionBudget) bool {
			policy := b.Spec.UnhealthyPodEvictionPolicy
			letsGo := unready && policy != nil && *policy == policyv1.AlwaysAllow
			return blocks(b) && !letsGo
		})
	}
}

func neverAllows(b policyv1.PodDisruptionBudget) bool {
	most, least := b.Spec.MaxUnavailable, b.Spec.MinAvailable
	return most != nil && (most.String() == "0" || most.String() == "0%") || least != nil && least.String() == "100%"
}

func disruptionOf(p *corev1.Pod, budgets []policyv1.PodDisruptionBudget) disruption {
	list := disruptions()
	return list[slices.IndexFunc(list, func(d disruption) bool { return d.is(p, budgets) })]
}

// estate is the state at one check, with what it remembers.
type estate struct {
	scene

	slots map[string]int
	sizes []int
	going map[string]bool
	quiet map[string]bool // nodes with no arrival or departure for long enough
	most  int             // nodes that may be disrupted at a time
	asked map[*corev1.Pod]disruption
}

// of returns how it treats a pod. It is called often, so the result is cached.
func (e estate) of(p *corev1.Pod) disruption {
	d, known := e.asked[p]
	if !known {
		d = disruptionOf(p, e.budgets)
		e.asked[p] = d
	}
	return d
}

// command is what it is about to do with nodes. Size is that of the node that replaces them; 0 for none.
type command struct {
	reason string
	nodes  []string
	size   int
}

// method is one way to find removable nodes.
type method struct {
	reason string
	find   func(e estate, candidates []string, allowed int) command
	source string
}

// methods are tried in order, and only one acts at a time (controllers/disruption/controller.go:101,166).
func methods() []method {
	return []method{
		{"Empty", estate.empty, "controllers/disruption/emptiness.go:64"},
		{"Underutilized, several at once", estate.several, "controllers/disruption/multinodeconsolidation.go:117"},
		{"Underutilized, one", estate.single, "controllers/disruption/singlenodeconsolidation.go:55"},
	}
}

// decide returns its next command; no nodes if there is none.
func (e estate) decide() command {
	candidates := e.candidates()
	allowed := max(0, e.most-len(e.going))
	for _, m := range methods() {
		if c := m.find(e, candidates, allowed); len(c.nodes) > 0 {
			c.reason = m.reason
			return c
		}
	}
	return command{}
}

// still returns the part of a command that is still valid (controllers/disruption/validation.go).
func (e estate) still(c command) command {
	candidates := e.candidates()
	if c.reason == methods()[0].reason {
		c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(n string) bool { return !slices.Contains(candidates, n) || e.moving(n) > 0 })
		return c
	}
	gone := slices.ContainsFunc(c.nodes, func(n string) bool { return !slices.Contains(candidates, n) || e.moving(n) == 0 })
	if fits, size := e.fits(c.nodes); gone || !fits || size != c.size || len(c.nodes) > e.most-len(e.going) {
		return command{}
	}
	return c
}

// candidates are nodes that have been quiet, without a pod that forbids it, the cheapest to empty first
// (controllers/disruption/types.go:146,161, consolidation.go:100,149).
func (e estate) candidates() []string {
	var list []string
	for _, n := range e.nodes {
		forbidden := slices.ContainsFunc(e.pods[n.Name], func(p *corev1.Pod) bool { return e.of(p).fate == forbids })
		if e.quiet[n.Name] && !e.going[n.Name] && !forbidden {
			list = append(list, n.Name)
		}
	}
	saves := map[string]float64{}
	for _, n := range list {
		saves[n] = float64(e.slots[n]) / float64(1+e.moving(n))
	}
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(saves[b], saves[a]) })
	return list
}

// moving counts the pods of a node that need room elsewhere.
func (e estate) moving(node string) (n int) {
	for _, p := range e.pods[node] {
		if e.of(p).fate == moves {
			n++
		}
	}
	return n
}

func (e estate) empty(candidates []string, allowed int) command {
	candidates = slices.DeleteFunc(slices.Clone(candidates), func(n string) bool { return e.moving(n) > 0 })
	return command{nodes: candidates[:min(allowed, len(candidates))]}
}

// several tries the first of them, and finds by halving how many.
func (e estate) several(candidates []string, allowed int) (found command) {
	candidates = slices.DeleteFunc(slices.Clone(candidates), func(n string) bool { return e.moving(n) == 0 })
	candidates = candidates[:min(allowed, mostAtOnce, len(candidates))]
	for least, most := 2, len(candidates); least <= most; {
		n := (least + most) / 2
		if fits, size := e.fits(candidates[:n]); fits {
			found, least = command{nodes: candidates[:n], size: size}, n+1
		} else {
			most = n - 1
		}
	}
	return found
}

func (e estate) single(candidates []string, allowed int) command {
	for _, n := range candidates {
		if fits, size := e.fits([]string{n}); fits && e.moving(n) > 0 && allowed > 0 {
			return command{nodes: []string{n}, size: size}
		}
	}
	return command{}
}

// fits reports whether the pods of nodes fit on the others, or with these on one new node of that size that is cheaper.
// Pods that wait for a node, and those of nodes being deleted, get their room first
// (controllers/disruption/helpers.go:53, consolidation.go:159).
func (e estate) fits(nodes []string) (fits bool, size int) {
	need := e.homeless()
	price := 0
	for _, n := range nodes {
		need += e.moving(n)
		price += e.slots[n]
	}
	left := need - e.free(nodes)
	if left <= 0 {
		return true, 0
	}
	options := slices.DeleteFunc(slices.Sorted(slices.Values(e.sizes)), func(s int) bool { return s < left || s >= price })
	if len(nodes) > 1 { // keeping one of the same type would be better (multinodeconsolidation.go:209)
		for _, n := range nodes {
			if slices.Contains(options, e.slots[n]) {
				options = slices.DeleteFunc(options, func(s int) bool { return s >= e.slots[n] })
			}
		}
	}
	if len(options) == 0 {
		return false, 0
	}
	return true, options[0]
}

// homeless counts the pods that need room in any case.
func (e estate) homeless() int {
	n := len(e.pods[""])
	for node := range e.going {
		for _, p := range e.pods[node] {
			if e.of(p).room {
				n++
			}
		}
	}
	return n
}

// free is the room on nodes that stay.
func (e estate) free(but []string) (room int) {
	for _, n := range e.nodes {
		if n.Spec.Unschedulable || e.going[n.Name] || slices.Contains(but, n.Name) {
			continue
		}
		room += e.slots[n.Name]
		for _, p := range e.pods[n.Name] {
			if e.of(p).fate != goes {
				room--
			}
		}
	}
	return room
}

// provisions is how many nodes of a size it adds for pods that need room.
func (e estate) provisions(size int) int {
	return (max(0, e.homeless()-e.free(nil)) + size - 1) / size
}

// planner remembers arrivals and departures of pods, and decides when to act.
type planner struct {
	KarpenterTimes

	seen    map[types.UID]sight
	nodes   map[string]heard
	polled  time.Time
	planned command
	due     time.Time
}

// sight is a pod at the previous check.
type sight struct {
	node    string
	leaving bool
}

// heard is when a node was first seen, and when a pod last arrived or left; zero for never.
type heard struct{ first, event time.Time }

// quiet records arrivals and departures, and returns the nodes without any for long enough.
func (p *planner) quiet(s scene, now time.Time) map[string]bool {
	was, nodes := p.seen, map[string]heard{}
	p.seen = map[types.UID]sight{}
	note := func(node string) {
		if h, there := nodes[node]; there && now.Sub(h.event) >= podEventsEvery {
			h.event = now
			nodes[node] = h
		}
	}
	for _, n := range s.nodes {
		nodes[n.Name] = heard{first: now}
		if h, known := p.nodes[n.Name]; known {
			nodes[n.Name] = h
		}
		for _, pod := range s.pods[n.Name] {
			if ownedBy("DaemonSet")(pod) {
				continue
			}
			is := sight{n.Name, pod.DeletionTimestamp != nil || hasEnded(pod)}
			if before, known := was[pod.UID]; !known || before.leaving != is.leaving {
				note(n.Name)
			}
			p.seen[pod.UID] = is
		}
	}
	for uid, before := range was { // pods that left between two checks
		if _, there := p.seen[uid]; !there && !before.leaving {
			note(before.node)
		}
	}
	p.nodes = nodes
	quiet := map[string]bool{}
	for name, h := range nodes {
		since := h.event
		if since.IsZero() {
			since = h.first
		}
		quiet[name] = now.Sub(since) >= p.After
	}
	return quiet
}

// act returns what to do now; no nodes if nothing.
func (p *planner) act(e estate, now time.Time) command {
	if len(p.planned.nodes) > 0 {
		if now.Before(p.due) {
			return command{}
		}
		c := e.still(p.planned)
		p.planned, p.polled = command{}, now
		return c
	}
	if now.Sub(p.polled) < p.Poll {
		return command{}
	}
	p.polled = now
	p.planned, p.due = e.decide(), now.Add(p.Validate)
	return command{}
}

// Run works until ctx ends.
func (k *Karpenter) Run(ctx context.Context) error {
	k.planner.KarpenterTimes = k.Times
	k.going, k.slots = map[string]time.Time{}, map[string]int{}
	tick := time.NewTicker(min(time.Second, k.Times.Poll)) // interval of drain steps
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := k.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// Removed returns the nodes that it removed, and how often it gave up on some.
func (k *Karpenter) Removed() (nodes []string, gaveUp int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.removed), k.gaveUp
}

func (k *Karpenter) look(ctx context.Context) error {
	s, err := see(ctx, k.Client, k.Nodes)
	if err != nil {
		return err
	}
	gone, _ := k.Removed()
	s.nodes = slices.DeleteFunc(s.nodes, func(n corev1.Node) bool { return slices.Contains(gone, n.Name) })
	s.pods[""] = slices.DeleteFunc(s.pods[""], func(p *corev1.Pod) bool { return !waits(p, s.nodes) })
	for _, node := range slices.Sorted(maps.Keys(k.going)) {
		if err := k.drain(ctx, s, node); err != nil {
			return err
		}
	}
	now := time.Now()
	e := estate{scene: s, slots: map[string]int{}, sizes: k.Sizes, going: map[string]bool{}, quiet: k.planner.quiet(s, now), most: (len(s.nodes)*k.Budget + 99) / 100, asked: map[*corev1.Pod]disruption{}}
	for _, n := range s.nodes {
		e.slots[n.Name] = cmp.Or(k.slots[n.Name], k.Slots)
	}
	for node := range k.going {
		e.going[node] = true
	}
	return k.start(ctx, k.planner.act(e, now))
}

// waits reports whether a pod found no room on such nodes (utils/pod/scheduling.go:102).
func waits(p *corev1.Pod, nodes []corev1.Node) bool {
	selector := labels.SelectorFromSet(p.Spec.NodeSelector)
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable
	}) && slices.ContainsFunc(nodes, func(n corev1.Node) bool { return selector.Matches(labels.Set(n.Labels)) })
}

// start taints the nodes of a command, waits for their replacement, and deletes them; or gives up if there is no
// replacement (controllers/disruption/queue.go:187,265,321).
func (k *Karpenter) start(ctx context.Context, c command) error {
	if len(c.nodes) == 0 {
		return nil
	}
	k.Log.Info("Nodes are disrupted", "reason", c.reason, "nodes", strings.Join(c.nodes, ","), "replacement", c.size)
	taint := corev1.Taint{Key: disruptedTaint, Effect: corev1.TaintEffectNoSchedule}
	for _, node := range c.nodes {
		if err := setTaint(ctx, k.Client, node, taint, true); err != nil {
			return err
		}
	}
	if c.size > 0 {
		added, err := k.Add(ctx, c.size)
		if err != nil {
			k.Log.Info("Nodes are given up on", "nodes", strings.Join(c.nodes, ","), "err", err)
			k.mu.Lock()
			k.gaveUp++
			k.mu.Unlock()
			for _, node := range c.nodes {
				if err := setTaint(ctx, k.Client, node, taint, false); err != nil {
					return err
				}
			}
			return nil
		}
		k.slots[added] = c.size
	}
	for _, node := range c.nodes {
		k.going[node] = time.Now()
	}
	return nil
}

// drain evicts the pods of a deleted node, without a time limit, and removes it when it waits for none
// (controllers/node/termination/terminator/terminator.go:94).
func (k *Karpenter) drain(ctx context.Context, s scene, node string) error {
	busy := false
	for _, p := range s.pods[node] {
		switch disruptionOf(p, s.budgets).ending {
		case evicted:
			busy = true
			if err := evict(ctx, k.Client, p); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsTooManyRequests(err) {
				return err
			}
		case awaited:
			busy = true
		case ignored:
		}
	}
	if busy || time.Since(k.going[node]) < k.Times.Drain {
		return nil
	}
	k.Log.Info("A node is removed", "node", node)
	delete(k.going, node)
	k.mu.Lock()
	k.removed = append(k.removed, node)
	k.mu.Unlock()
	return k.Remove(ctx, node)
}
