// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

// Autoscaler removes nodes as Cluster Autoscaler 1.36 does: it marks unneeded nodes, and after a
// while removes the empty ones and drains one of the others. It adds none.
type Autoscaler struct {
	Client kubernetes.Interface
	// Nodes selects the nodes that it manages.
	Nodes string
	// Slots is how many pods fit on a node.
	Slots int
	// Scan is the interval of its checks, Unneeded how long a node must have been unneeded, Evict
	// how long it tries to evict, and Failed how long it leaves a node alone after it gave up
	// (--scan-interval, --scale-down-unneeded-time, --max-pod-eviction-time,
	// --scale-down-delay-after-failure).
	Scan, Unneeded, Evict, Failed time.Duration
	// Remove removes the machine.
	Remove func(ctx context.Context, node string) error
	Log    *slog.Logger

	mu      sync.Mutex
	since   map[string]time.Time // since when each node has been unneeded
	failed  map[string]time.Time
	removed []string
	gaveUp  int
}

// The taints that it sets.
const (
	candidateTaint = "DeletionCandidateOfClusterAutoscaler"
	removalTaint   = "ToBeDeletedByClusterAutoscaler"
)

// needed is the utilization below which a node may count as unneeded
// (--scale-down-utilization-threshold).
const needed = 0.5

// fate is how it treats a pod on a node that it would like to remove.
type fate string

const (
	goes    fate = "goes with its node"
	moves   fate = "is evicted, and needs room elsewhere"
	lasts   fate = "is waited for, and needs no room"
	forbids fate = "keeps its node"
)

// decision is one of Cluster Autoscaler's decisions.
type decision struct {
	when   string
	is     func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool
	fate   fate
	source string // in kubernetes/autoscaler, cluster-autoscaler/
}

const safeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict"

// decisions are tried in order, and the first that applies decides.
func decisions() []decision {
	says := func(value string) func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool {
		return func(p *corev1.Pod, _ []policyv1.PodDisruptionBudget) bool { return p.Annotations[safeToEvict] == value }
	}
	controlledBy := func(kinds ...string) func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool {
		return func(p *corev1.Pod, _ []policyv1.PodDisruptionBudget) bool {
			ref := metav1.GetControllerOfNoCopy(p)
			return ref != nil && slices.Contains(kinds, ref.Kind)
		}
	}
	return []decision{
		{"it has ended", func(p *corev1.Pod, _ []policyv1.PodDisruptionBudget) bool {
			return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		}, goes, "simulator/drainability/rules/terminal"},
		{"a DaemonSet's", controlledBy("DaemonSet"), goes, "simulator/drainability/rules/daemonset"},
		{"safe-to-evict: on-completion (1.36)", says("on-completion"), lasts, "simulator/drainability/rules/rules.go:63-73"},
		{"safe-to-evict: true: neither budget, nor storage, nor owner is asked", says("true"), moves, "simulator/drainability/rules/rules.go:63-73"},
		{"safe-to-evict: false", says("false"), forbids, "simulator/drainability/rules/notsafetoevict"},
		{"no owner that makes it again, as a Deployment itself", func(p *corev1.Pod, b []policyv1.PodDisruptionBudget) bool {
			return !controlledBy("ReplicaSet", "ReplicationController", "StatefulSet", "Job")(p, b)
		}, forbids, "simulator/drainability/rules/replicated"},
		{"an emptyDir that is not named", unnamedStorage, forbids, "simulator/drainability/rules/localstorage"},
		{"its budget allows none", func(p *corev1.Pod, budgets []policyv1.PodDisruptionBudget) bool {
			return slices.ContainsFunc(budgetsOf(p, budgets), func(b policyv1.PodDisruptionBudget) bool { return b.Status.DisruptionsAllowed < 1 })
		}, forbids, "simulator/drainability/rules/pdb/rule.go:42"},
		{"any other", func(*corev1.Pod, []policyv1.PodDisruptionBudget) bool { return true }, moves, "simulator/drain.go"},
	}
}

func budgetsOf(p *corev1.Pod, budgets []policyv1.PodDisruptionBudget) (list []policyv1.PodDisruptionBudget) {
	for _, b := range budgets {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && b.Namespace == p.Namespace && selector.Matches(labels.Set(p.Labels)) {
			list = append(list, b)
		}
	}
	return list
}

func unnamedStorage(p *corev1.Pod, _ []policyv1.PodDisruptionBudget) bool {
	named := strings.Split(p.Annotations[safeToEvict+"-local-volumes"], ",")
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.EmptyDir != nil && !slices.Contains(named, v.Name) })
}

func fateOf(p *corev1.Pod, budgets []policyv1.PodDisruptionBudget) decision {
	list := decisions()
	return list[slices.IndexFunc(list, func(d decision) bool { return d.is(p, budgets) })]
}

// scene is the state at one check.
type scene struct {
	nodes   []corev1.Node
	pods    map[string][]*corev1.Pod // by node; of Cluster Autoscaler, without those that go with it
	budgets []policyv1.PodDisruptionBudget
}

// moving returns the pods of a node that need room elsewhere; finishing reports that it waits
// for others, and keeps why the node is kept; empty if it may be removed.
func (s scene) moving(node string) (moving []*corev1.Pod, finishing bool, keeps string) {
	for _, p := range s.pods[node] {
		switch d := fateOf(p, s.budgets); d.fate {
		case moves:
			moving = append(moving, p)
		case lasts:
			finishing = true
		case forbids:
			return nil, false, p.Name + ": " + d.when
		case goes:
		}
	}
	return moving, finishing, ""
}

// unneeded returns the nodes whose pods all fit on the others, jointly: an unneeded node
// receives none, and one that receives some has less room.
func (s scene) unneeded(slots int, before map[string]time.Time) []string {
	nodes := slices.Clone(s.nodes)
	slices.SortStableFunc(nodes, func(a, b corev1.Node) int {
		later := func(n string) int { // nodes that were unneeded stay so
			if _, was := before[n]; was {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(later(a.Name), later(b.Name)), cmp.Compare(len(s.pods[a.Name]), len(s.pods[b.Name])), strings.Compare(a.Name, b.Name))
	})
	free := map[string]int{}
	for _, n := range nodes {
		if !n.Spec.Unschedulable {
			free[n.Name] = slots - len(s.pods[n.Name])
		}
	}
	var list []string
	taking := map[string]bool{}
	for _, n := range nodes {
		moving, _, keeps := s.moving(n.Name)
		if keeps != "" || taking[n.Name] || float64(len(s.pods[n.Name]))/float64(slots) >= needed {
			continue
		}
		room := maps.Clone(free)
		delete(room, n.Name)
		to := findRoom(room, len(moving))
		if len(moving) > 0 && to == nil {
			continue
		}
		for _, name := range to {
			taking[name] = true
		}
		free = room
		list = append(list, n.Name)
	}
	return list
}

// findRoom finds room for n pods, on the fullest nodes first, and returns the nodes; nil if
// there is not enough.
func findRoom(free map[string]int, n int) (on []string) {
	names := slices.SortedFunc(maps.Keys(free), func(a, b string) int {
		return cmp.Or(cmp.Compare(free[a], free[b]), strings.Compare(a, b))
	})
	for _, name := range names {
		takes := min(free[name], n)
		if takes <= 0 {
			continue
		}
		free[name], n = free[name]-takes, n-takes
		on = append(on, name)
	}
	if n > 0 {
		return nil
	}
	return on
}

// Run works until ctx ends.
func (a *Autoscaler) Run(ctx context.Context) error {
	a.since, a.failed = map[string]time.Time{}, map[string]time.Time{}
	tick := time.NewTicker(a.Scan)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// Removed returns the nodes that it removed, and how often it gave up on one.
func (a *Autoscaler) Removed() (nodes []string, gaveUp int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.removed), a.gaveUp
}

func (a *Autoscaler) look(ctx context.Context) error {
	s, err := a.sees(ctx)
	if err != nil {
		return err
	}
	unneeded := s.unneeded(a.Slots, a.since)
	for _, n := range s.nodes {
		is := slices.Contains(unneeded, n.Name)
		if _, was := a.since[n.Name]; is == was {
			continue
		}
		a.Log.Info("A node is needed, or not", "node", n.Name, "needed", !is, "pods", len(s.pods[n.Name]))
		delete(a.since, n.Name)
		if is {
			a.since[n.Name] = time.Now()
		}
		if err := a.taint(ctx, n.Name, candidateTaint, corev1.TaintEffectPreferNoSchedule, is); err != nil {
			return err
		}
	}
	for _, node := range unneeded {
		if time.Since(a.since[node]) < a.Unneeded || time.Since(a.failed[node]) < a.Failed {
			continue
		}
		moving, finishing, _ := s.moving(node)
		switch {
		case finishing:
			continue // the node is deleted when they are gone
		case len(moving) == 0:
			err = a.remove(ctx, node)
		default:
			err = a.drain(ctx, node, moving) // one at a time
		}
		if err != nil {
			return err
		}
		if len(moving) > 0 {
			return nil
		}
	}
	return nil
}

func (a *Autoscaler) sees(ctx context.Context) (scene, error) {
	s, err := see(ctx, a.Client, a.Nodes)
	if err != nil {
		return s, err
	}
	gone, _ := a.Removed()
	s.nodes = slices.DeleteFunc(s.nodes, func(n corev1.Node) bool { return slices.Contains(gone, n.Name) })
	for node, pods := range s.pods {
		s.pods[node] = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return fateOf(p, s.budgets).fate == goes })
	}
	return s, nil
}

// see reads the selected nodes, and all pods and budgets.
func see(ctx context.Context, client kubernetes.Interface, selector string) (scene, error) {
	s := scene{pods: map[string][]*corev1.Pod{}}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return s, fmt.Errorf("cannot list the nodes: %w", err)
	}
	s.nodes = nodes.Items
	budgets, err := client.PolicyV1().PodDisruptionBudgets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, fmt.Errorf("cannot list the budgets: %w", err)
	}
	s.budgets = budgets.Items
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, fmt.Errorf("cannot list the pods: %w", err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		s.pods[p.Spec.NodeName] = append(s.pods[p.Spec.NodeName], p)
	}
	return s, nil
}

// drain taints and cordons a node, and evicts its pods until the time limit. Then it gives up
// and restores the node.
func (a *Autoscaler) drain(ctx context.Context, node string, pods []*corev1.Pod) error {
	if err := a.taint(ctx, node, removalTaint, corev1.TaintEffectNoSchedule, true); err != nil {
		return err
	}
	a.Log.Info("A node is drained", "node", node, "pods", len(pods))
	for end := time.Now().Add(a.Evict); len(pods) > 0; {
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
			err := evict(ctx, a.Client, p)
			return apierrors.IsNotFound(err) || apierrors.IsConflict(err)
		})
		if len(pods) > 0 && time.Now().After(end) {
			a.Log.Info("A node is given up on", "node", node, "pods", len(pods))
			a.mu.Lock()
			a.gaveUp++
			a.mu.Unlock()
			a.failed[node] = time.Now()
			return a.taint(ctx, node, removalTaint, corev1.TaintEffectNoSchedule, false)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.Scan):
		}
	}
	return a.remove(ctx, node)
}

func (a *Autoscaler) remove(ctx context.Context, node string) error {
	if err := a.taint(ctx, node, removalTaint, corev1.TaintEffectNoSchedule, true); err != nil {
		return err
	}
	// A pod that arrived between the check and the taint keeps the node until another check.
	s, err := a.sees(ctx)
	if err != nil {
		return err
	}
	if len(s.pods[node]) > 0 {
		return a.taint(ctx, node, removalTaint, corev1.TaintEffectNoSchedule, false)
	}
	a.Log.Info("A node is removed", "node", node)
	a.mu.Lock()
	a.removed = append(a.removed, node)
	a.mu.Unlock()
	return a.Remove(ctx, node)
}

// taint sets or removes a taint. That of a removal also cordons or uncordons.
func (a *Autoscaler) taint(ctx context.Context, node, key string, effect corev1.TaintEffect, set bool) error {
	return setTaint(ctx, a.Client, node, corev1.Taint{Key: key, Value: fmt.Sprint(time.Now().Unix()), Effect: effect}, set, func(n *corev1.Node) {
		if key == removalTaint {
			n.Spec.Unschedulable = set
		}
	})
}

// setTaint sets or removes a taint, together with other changes.
func setTaint(ctx context.Context, client kubernetes.Interface, node string, taint corev1.Taint, set bool, others ...func(*corev1.Node)) error {
	err := retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error {
		n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taint.Key })
		if set {
			n.Spec.Taints = append(n.Spec.Taints, taint)
		}
		for _, change := range others {
			change(n)
		}
		_, err = client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		return err
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("cannot taint node %s: %w", node, err)
	}
	return err
}

// evict requests the eviction of a pod, and of no other with its name.
func evict(ctx context.Context, client kubernetes.Interface, p *corev1.Pod) error {
	return client.PolicyV1().Evictions(p.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}},
	})
}
