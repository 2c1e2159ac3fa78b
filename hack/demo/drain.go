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

	appsv1 "k8s.io/api/apps/v1"
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
	callsByAgent = 3
	sideCalls    = 7 // of the 12 that its agents take
	// startSeconds is how long an agent takes from its start until it takes calls, as one that loads models does.
	startSeconds = "8"
	// kubernetesGrace is the termination grace period, in seconds, of a pod that sets none.
	kubernetesGrace = 30
	hourOfGrace     = 3600
	// talk is how long the callers talk on once the node is drained.
	talk = 45 * time.Second
	// While the node is drained, a new caller dials every so often, and talks for so long.
	newCallers     = 6
	newCallerEvery = 2500 * time.Millisecond
	newCallerTalks = 4 * time.Second
	answerWithin   = 15 * time.Second

	drainWithin = 2 * time.Minute
	// lateAfter is how long after the callers have left the show waits for the drains of those without callguard. An agent
	// that comes into a room after its caller gave up is alone there, and may stay for minutes.
	lateAfter = 20 * time.Second
	sideLabel = "demo.callguard.dev/side"
	// priorityClass keeps the scheduler from preempting pods with calls.
	priorityClass = "callguard-calls"
)

// side is one of the compared variants: agents on two nodes, of which one is drained.
type side struct {
	title, namespace string
	guarded          bool
	grace            int64 // of the pods, in seconds
	node, other      string
	callers          *fleet.Callers

	mu    sync.Mutex
	calls []*fleet.Call
	took  time.Duration // the drain, once it is over
	fault error         // of the drain
	over  bool
}

// theSides are callguard, what people use today, and what they would try next.
func theSides() []*side {
	return []*side{
		{title: "callguard", namespace: "guarded", guarded: true, grace: kubernetesGrace, node: local.NodeName(1), other: local.NodeName(2)},
		{title: "PDB, 30 s grace", namespace: "plain", grace: kubernetesGrace, node: local.NodeName(3), other: local.NodeName(4)},
		{title: "PDB, 1 h grace", namespace: "patient", grace: hourOfGrace, node: local.NodeName(5), other: local.NodeName(6)},
	}
}

// nodesOfSides is how many nodes the sides have.
const nodesOfSides = 6

// secondAct drains three nodes during calls, and shows and judges what happens to the calls. It calls begins before it
// shows anything.
func secondAct(ctx context.Context, stage *lab.Lab, s *screen, progress io.Writer, d *dashboardPicture, begins func()) error {
	_, _ = fmt.Fprintln(progress, "second act: starting the drain-guard, and three times the same agents")
	guard, err := startGuard(ctx, stage)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	if err := d.addGuard(ctx, guard); err != nil {
		return interruptedOr(ctx, err)
	}
	sides := theSides()
	for _, one := range sides {
		one.callers = stage.NewCallers()
		defer one.callers.Close()
	}
	if err := prepareSides(ctx, stage, sides); err != nil {
		return interruptedOr(ctx, err)
	}
	begins()
	var busy sync.WaitGroup
	defer busy.Wait()
	playing, stop := context.WithCancel(ctx)
	defer stop()
	start := time.Now()
	d.drainsBegin(start)
	for _, one := range sides {
		busy.Go(func() { one.drain(playing, stage, start) })
		busy.Go(func() { one.newCallers(playing) })
	}
	if err := followDrain(playing, stage, sides, s, start); err != nil {
		return interruptedOr(ctx, err)
	}
	s.print(drainSummary(outcomes(sides)))
	return judgeDrain(outcomes(sides))
}

func startGuard(ctx context.Context, stage *lab.Lab) (*lab.Guard, error) {
	if err := stage.InstallGuard(ctx); err != nil {
		return nil, err
	}
	guard, err := stage.StartGuard(ctx)
	if err != nil {
		return nil, err
	}
	return guard, guard.WaitReady(ctx)
}

// prepareSides prepares all sides at once.
func prepareSides(ctx context.Context, stage *lab.Lab, sides []*side) error {
	errs := make([]error, len(sides))
	var all sync.WaitGroup
	for i, one := range sides {
		all.Go(func() { errs[i] = one.prepare(ctx, stage) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// prepare makes the agents and fills them with calls.
func (h *side) prepare(ctx context.Context, stage *lab.Lab) error {
	if err := h.namespaceFor(ctx, stage); err != nil {
		return err
	}
	if _, err := stage.Client.AppsV1().Deployments(h.namespace).Create(ctx, h.agentsOf(), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot make the Deployment of agents: %w", err)
	}
	err := lab.Eventually(ctx, prepareWithin, "the agents of namespace "+h.namespace+" are registered with LiveKit", func() (bool, error) {
		agents := h.agents(stage)
		return len(agents) == sideAgents && !slices.ContainsFunc(agents, func(a fleet.AgentState) bool { return !a.Registered }), nil
	})
	if err != nil {
		return err
	}
	return h.dial(ctx)
}

// labelNodes reserves two nodes for the side.
func (h *side) labelNodes(ctx context.Context, stage *lab.Lab) error {
	for _, node := range []string{h.node, h.other} {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, sideLabel, h.namespace)
		if _, err := stage.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("cannot label %s: %w", node, err)
		}
	}
	return nil
}

// agentsOf is the Deployment. The sides differ in nothing but the grace, and in call-gate, which callguard brings.
func (h *side) agentsOf() *appsv1.Deployment {
	d := lab.Agent(h.namespace, sideAgents)
	pod := &d.Spec.Template
	pod.Annotations = map[string]string{
		fleet.AgentNameAnnotation: h.namespace, fleet.MaxJobsAnnotation: fmt.Sprint(callsByAgent),
		fleet.ProcessSecondsAnnotation: startSeconds,
	}
	if h.guarded {
		lab.Gated(pod, lab.GateKind, true)
		pod.Spec.PriorityClassName = priorityClass
	}
	pod.Spec.TerminationGracePeriodSeconds = &h.grace
	pod.Spec.NodeSelector = map[string]string{sideLabel: h.namespace}
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: d.Spec.Selector,
	}}
	return d
}

// namespaceFor creates the namespace: one that callguard guards, or one with the PodDisruptionBudget that people use
// today.
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

// dial dials the calls that are up when the drain begins.
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

// newCallers dial while the node is drained. The report has whether they are answered.
func (h *side) newCallers(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for i := range newCallers {
		if !pause(ctx, newCallerEvery) {
			return
		}
		all.Go(func() {
			c, err := h.callers.Dial(ctx, fmt.Sprintf("%s-new-%d", h.namespace, i), fleet.DialOptions{AgentName: h.namespace, AnswerWithin: answerWithin})
			if err != nil {
				return // the report counts it
			}
			pause(ctx, newCallerTalks)
			c.HangUp()
		})
	}
}

// pause reports whether a time has passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// hangUp ends every call that was up when the drain began.
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
	_, err := stage.Kubectl(ctx, "drain", h.node, "--ignore-daemonsets", "--timeout="+(talk+drainWithin).String())
	if ctx.Err() != nil {
		return // the show is over, and the drain is not
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.took, h.fault, h.over = time.Since(start), err, true
}

// followDrain shows all sides twice a second until all drains and all calls are over.
func followDrain(ctx context.Context, stage *lab.Lab, sides []*side, s *screen, start time.Time) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var hangUps sync.WaitGroup
	defer hangUps.Wait()
	hungUp := false
	for {
		at := time.Since(start)
		views := make([]sideView, len(sides))
		for i, one := range sides {
			var err error
			if views[i], err = one.look(ctx, stage); err != nil && ctx.Err() == nil {
				return err
			}
		}
		s.draw(at, drainLines(views), func(width, height int) string { return drainTable(at, views, width, height) })
		if at >= talk && !hungUp {
			hungUp = true
			for _, one := range sides {
				hangUps.Go(one.hangUp)
			}
		}
		if drainsOver(at, views) {
			return nil
		}
		if at > talk+drainWithin {
			return fmt.Errorf("the drains did not end within %s: %s", talk+drainWithin, strings.Join(drainLines(views), "; "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// drainsOver reports whether there is nothing left to wait for.
func drainsOver(at time.Duration, sides []sideView) bool {
	for _, v := range sides {
		late := !v.Guarded && at > talk+lateAfter
		if v.Calls > 0 || !v.Over && !late {
			return false
		}
	}
	return true
}

// look is the visible state of a side at one moment.
func (h *side) look(ctx context.Context, stage *lab.Lab) (sideView, error) {
	r := h.callers.Report()
	h.mu.Lock()
	v := sideView{
		Title: h.title, Node: h.node, Other: h.other, Guarded: h.guarded,
		Calls: r.Up, Dropped: len(r.Dropped), Unanswered: r.Unanswered, Over: h.over, Took: h.took,
	}
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
