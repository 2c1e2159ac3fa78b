// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	sideAgents   = 4 // on two nodes
	callsByAgent = 2
	sideCalls    = sideAgents * callsByAgent
	// kubernetesGrace is what a pod has to end in, in seconds, unless it says otherwise.
	kubernetesGrace = 30
	// talk is how long the callers talk on once the node is drained.
	talk        = 50 * time.Second
	drainWithin = 2 * time.Minute
	sideLabel   = "demo.callguard.dev/side"
)

// side is one half of the second act: agents on two nodes, of which one is drained.
type side struct {
	title, namespace string
	guarded          bool
	node, other      string
	callers          *fleet.Callers

	mu    sync.Mutex
	calls []*fleet.Call
	took  time.Duration // the drain, once it is over
	fault error         // of the drain
	over  bool
}

// secondAct drains two nodes in mid-call and shows and judges what becomes of the calls.
func secondAct(ctx context.Context, stage *lab.Lab, s *screen, stderr io.Writer) error {
	_, _ = fmt.Fprintln(stderr, "second act: starting the drain-guard, and two workloads of the same agents")
	if err := stage.InstallGuard(ctx); err != nil {
		return interruptedOr(ctx, err)
	}
	guard, err := stage.StartGuard(ctx)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	if err := guard.WaitReady(ctx); err != nil {
		return interruptedOr(ctx, err)
	}
	sides := []*side{
		{title: "with the guard", namespace: "guarded", guarded: true, node: local.NodeName(1), other: local.NodeName(2)},
		{title: "with a plain PDB", namespace: "plain", node: local.NodeName(3), other: local.NodeName(4)},
	}
	for _, half := range sides {
		half.callers = stage.NewCallers()
		defer half.callers.Close()
		if err := half.prepare(ctx, stage); err != nil {
			return interruptedOr(ctx, err)
		}
	}
	var drains sync.WaitGroup
	defer drains.Wait()
	draining, stop := context.WithCancel(ctx)
	defer stop()
	start := time.Now()
	for _, half := range sides {
		drains.Go(func() { half.drain(draining, stage, start) })
	}
	if err := followDrain(ctx, stage, sides, s, start); err != nil {
		return err
	}
	s.print(drainSummary(sides))
	return judgeDrain(sides)
}

// prepare makes the agents and fills them with calls.
func (h *side) prepare(ctx context.Context, stage *lab.Lab) error {
	if err := h.namespaceFor(ctx, stage); err != nil {
		return err
	}
	for _, node := range []string{h.node, h.other} {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, sideLabel, h.namespace)
		if _, err := stage.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot label %s: %w", node, err)
		}
	}
	d := lab.Agent(h.namespace, sideAgents)
	d.Spec.Template.Annotations = map[string]string{
		fleet.AgentNameAnnotation: h.namespace, fleet.MaxJobsAnnotation: fmt.Sprint(callsByAgent),
	}
	grace := int64(kubernetesGrace)
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
	d.Spec.Template.Spec.NodeSelector = map[string]string{sideLabel: h.namespace}
	d.Spec.Template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: d.Spec.Selector,
	}}
	if _, err := stage.Client.AppsV1().Deployments(h.namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make the Deployment of agents: %w", err)
	}
	err := lab.Eventually(ctx, prepareWithin, "the agents of namespace "+h.namespace+" are registered with LiveKit", func() (bool, error) {
		return len(h.agents(stage)) == sideAgents && !slices.ContainsFunc(h.agents(stage), func(a fleet.AgentState) bool { return !a.Registered }), nil
	})
	if err != nil {
		return err
	}
	return h.dial(ctx)
}

// namespaceFor makes the namespace: one that callguard guards, or one with the
// PodDisruptionBudget that people use today.
func (h *side) namespaceFor(ctx context.Context, stage *lab.Lab) error {
	if h.guarded {
		if err := stage.Namespace(ctx, h.namespace); err != nil {
			return err
		}
		return lab.Eventually(ctx, prepareWithin, "the guard has locked namespace "+h.namespace, func() (bool, error) {
			_, err := stage.Client.PolicyV1().PodDisruptionBudgets(h.namespace).Get(ctx, "callguard", metav1.GetOptions{})
			return err == nil, err
		})
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: h.namespace}}
	if _, err := stage.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make namespace %s: %w", h.namespace, err)
	}
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: h.namespace, Name: lab.AgentName},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}},
		},
	}
	if _, err := stage.Client.PolicyV1().PodDisruptionBudgets(h.namespace).Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make the PodDisruptionBudget: %w", err)
	}
	return nil
}

// dial makes as many calls as the agents take.
func (h *side) dial(ctx context.Context) error {
	errs := make([]error, sideCalls)
	var all sync.WaitGroup
	for i := range sideCalls {
		all.Go(func() {
			c, err := h.callers.Dial(ctx, fmt.Sprintf("%s-%d", h.namespace, i), fleet.DialOptions{AgentName: h.namespace})
			if errs[i] = err; err == nil {
				h.mu.Lock()
				h.calls = append(h.calls, c)
				h.mu.Unlock()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// hangUp ends every call.
func (h *side) hangUp() {
	h.mu.Lock()
	calls := slices.Clone(h.calls)
	h.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range calls {
		all.Go(c.HangUp)
	}
	all.Wait()
}

// drain drains the side's node as an operator does.
func (h *side) drain(ctx context.Context, stage *lab.Lab, start time.Time) {
	_, err := stage.Kubectl(ctx, "drain", h.node, "--ignore-daemonsets", "--timeout="+drainWithin.String())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.took, h.fault, h.over = time.Since(start), err, true
}

// followDrain shows both sides twice a second until both drains and all calls are over.
func followDrain(ctx context.Context, stage *lab.Lab, sides []*side, s *screen, start time.Time) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var hangUps sync.WaitGroup
	defer hangUps.Wait()
	hungUp := false
	for {
		at := time.Since(start)
		views, over := make([]sideView, len(sides)), true
		for i, half := range sides {
			var err error
			if views[i], err = half.look(ctx, stage); err != nil && ctx.Err() == nil {
				return err
			}
			over = over && views[i].Over && views[i].Calls == 0
		}
		s.draw(at, drainLine(views), func(width, height int) string { return drainTable(at, views, width, height) })
		if at >= talk && !hungUp {
			hungUp = true
			for _, half := range sides {
				hangUps.Go(half.hangUp)
			}
		}
		if over {
			return nil
		}
		if at > talk+drainWithin {
			return fmt.Errorf("the drains did not end within %s: %s", talk+drainWithin, drainLine(views))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// sideView is what is to be seen of a side at one moment.
type sideView struct {
	Title, Node    string
	Calls, Dropped int
	Over           bool
	Took           time.Duration
	Pods           []podRow
}

func (h *side) look(ctx context.Context, stage *lab.Lab) (sideView, error) {
	r := h.callers.Report()
	h.mu.Lock()
	v := sideView{Title: h.title, Node: h.node, Calls: r.Up, Dropped: len(r.Dropped), Over: h.over, Took: h.took}
	h.mu.Unlock()
	pods, err := stage.Client.CoreV1().Pods(h.namespace).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
	if err != nil {
		return v, fmt.Errorf("cannot list the pods: %w", err)
	}
	jobs := map[string]int64{}
	for _, a := range h.agents(stage) {
		jobs[a.Pod.Name] = int64(a.ActiveJobs)
	}
	for i := range pods.Items {
		v.Pods = append(v.Pods, row(&pods.Items[i], jobs))
	}
	slices.SortFunc(v.Pods, func(a, b podRow) int { return strings.Compare(a.Node+a.Name, b.Node+b.Name) })
	return v, nil
}

func (h *side) agents(stage *lab.Lab) []fleet.AgentState {
	return slices.DeleteFunc(stage.Fleet.Agents(), func(a fleet.AgentState) bool { return a.Pod.Namespace != h.namespace })
}
