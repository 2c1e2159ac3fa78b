// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const (
	// The images of agents. The last one never starts.
	oneImage, otherImage, badImage = "agent:demo", "agent:next", "none"

	// evictEvery is how often a storm evicts, and mostEvictions how many answers it waits for at once.
	evictEvery, mostEvictions = 50 * time.Millisecond, 10

	// drainAgain is the pause before a kubectl that gave up is started once more.
	drainAgain = Offset(time.Second)
	// undoWithin bounds what has to be taken back although the run is over.
	undoWithin = heardWithin + 30*time.Second
)

// passedOver is why a step was not done.
type passedOver string

func (p passedOver) Error() string { return string(p) }

// step does a step and keeps its record. A step of the schedule that fails is a fault of the run.
func (p *player) step(ctx context.Context, s Step) {
	said, err := p.do(ctx, s)
	var passed passedOver
	switch {
	case errors.As(err, &passed):
		said = passed.Error()
	case err != nil && ctx.Err() == nil:
		p.fail("%s at %s: %v", s.Kind, short(s.At), err)
	}
	p.t.Logf("%s: %s %s %s", short(s.At), s.Kind, s.Workload, said)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = append(p.steps, StepRecord{Step: s, Ended: p.now(), Said: said, Passed: passed != ""})
}

func (p *player) do(ctx context.Context, s Step) (said string, err error) {
	switch s.Kind {
	case DrainNode, DrainNodes:
		return p.drainNodes(ctx, s)
	case TakeBack:
		return p.takeBack(ctx, s)
	case RollOut:
		return p.rollOut(ctx, s)
	case RollOutBad:
		return p.rollOutBad(ctx, s)
	case ScaleUp, ScaleDown:
		return p.scale(ctx, s)
	case DeletePods:
		return p.deletePods(ctx, s)
	case EvictAll:
		return p.evictAll(ctx, s)
	case KillGuard:
		return p.guards.replace(ctx, (*lab.Guard).Kill)
	case StopGuard:
		return p.guards.replace(ctx, (*lab.Guard).Stop)
	case PauseGuard:
		return p.guards.hold(ctx, func() { p.pause(ctx, s.For) })
	case KillAdapter:
		return p.replaceAdapter(ctx, true)
	case StopAdapter:
		return p.replaceAdapter(ctx, false)
	case HoldAdapter:
		return p.holdAdapter(ctx, s)
	case KillGate:
		return p.killGate(ctx, s)
	case HoldGate:
		return p.holdGate(ctx, s)
	case FullDisk:
		return p.fullDisk(ctx, s)
	case KillAgent:
		return p.killAgent(ctx, s)
	case SlowLiveKit:
		return p.slowLiveKit(ctx, s)
	case KillAPIServer, HoldAPIServer, KillEtcd, HoldEtcd, KillControllers, KillScheduler:
		return p.controlPlane(ctx, s)
	case AlterPolicy, AlterBudget, AlterRights, AlterKey, AlterLabels:
		return p.alter(ctx, s)
	case LoseNode, LoseReport:
		return p.loseNode(ctx, s)
	case OptOut:
		return p.optOut(ctx, s)
	case SlowNetwork, LossyNetwork, CutNetwork:
		return p.network(ctx, s)
	}
	return "", fmt.Errorf("nobody knows how to do a %q", s.Kind)
}

// take takes nodes that are open: those with agents, from the one that is asked for on, then others. Enough stay open for
// everybody's pods.
func (p *player) take(first, count int) (nodes []string) {
	used := map[string]bool{}
	for _, a := range p.stage.Fleet.Agents() {
		used[a.Node] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.schedule.Nodes
	for i := range 2 * all {
		node := local.NodeName((first+i)%all + 1)
		if wanted := used[node] || i >= all; wanted && len(nodes) < count && all-len(p.busy) > LeastNodes && !p.busy[node] {
			p.busy[node] = true
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// open gives a node back to the scheduler, also when the run is over.
func (p *player) open(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	defer cancel()
	err := p.cordon(ctx, node, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, node)
	return err
}

func (p *player) cordon(ctx context.Context, node string, closed bool) error {
	patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, closed)
	err := heard(ctx, func() error {
		_, err := p.stage.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot cordon %s, or uncordon it: %w", node, err)
	}
	return nil
}

// drainNodes drains nodes at once, each with a kubectl of its own, and opens each when it is drained.
func (p *player) drainNodes(ctx context.Context, s Step) (string, error) {
	nodes := p.take(s.Node, s.Count)
	if len(nodes) == 0 {
		return "", passedOver("too few nodes are open")
	}
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() { errs[i] = p.drain(ctx, node) })
	}
	all.Wait()
	return strings.Join(nodes, ", "), errors.Join(errs...)
}

func (p *player) drain(ctx context.Context, node string) error {
	d := DrainRecord{Node: node, Began: p.now()}
	for ctx.Err() == nil {
		d.Tries++
		args := []string{"drain", node, "--ignore-daemonsets", "--delete-emptydir-data"}
		if p.baseline == AgonesLike {
			args = append(args, "--force") // a pod with a call has no owner here
		}
		out, err := p.stage.Kubectl(ctx, args...)
		if err == nil {
			d.Done = true
			break
		}
		if ctx.Err() == nil {
			p.t.Logf("drain of %s: %v %s", node, err, out)
		}
		p.pause(ctx, drainAgain)
	}
	d.Ended = p.now()
	d.Cut = !d.Done && !errors.Is(ctx.Err(), context.DeadlineExceeded)
	p.mu.Lock()
	p.drains = append(p.drains, d)
	p.mu.Unlock()
	return p.open(ctx, node)
}

// takeBack cordons a node, and then uncordons it.
func (p *player) takeBack(ctx context.Context, s Step) (string, error) {
	nodes := p.take(s.Node, 1)
	if len(nodes) == 0 {
		return "", passedOver("too few nodes are open")
	}
	if err := p.cordon(ctx, nodes[0], true); err != nil {
		return nodes[0], errors.Join(err, p.open(ctx, nodes[0]))
	}
	p.pause(ctx, s.For)
	return nodes[0], p.open(ctx, nodes[0])
}

func (p *player) created(ctx context.Context, d *appsv1.Deployment) error {
	if _, err := p.stage.Client.AppsV1().Deployments(d.Namespace).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("cannot deploy agents in namespace %s: %w", d.Namespace, err)
	}
	return nil
}

func (p *player) patch(ctx context.Context, workload, patch string) error {
	err := heard(ctx, func() error {
		_, err := p.stage.Client.AppsV1().Deployments(namespaceOf(workload)).Patch(ctx, lab.AgentName, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot change the Deployment of %s: %w", workload, err)
	}
	return nil
}

func (p *player) setImage(ctx context.Context, workload, image string) error {
	return p.patch(ctx, workload, fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":%q}]}}}}`, image))
}

// rollOut gives a workload's agents another image.
func (p *player) rollOut(ctx context.Context, s Step) (string, error) {
	if !p.rollout[s.Workload].TryLock() {
		return "", passedOver("a broken rollout is not undone yet")
	}
	defer p.rollout[s.Workload].Unlock()
	p.mu.Lock()
	image := oneImage
	if p.images[s.Workload] == oneImage {
		image = otherImage
	}
	p.images[s.Workload] = image
	p.mu.Unlock()
	return image, p.setImage(ctx, s.Workload, image)
}

// rollOutBad gives them an image that does not start, and then the former one.
func (p *player) rollOutBad(ctx context.Context, s Step) (string, error) {
	if !p.rollout[s.Workload].TryLock() {
		return "", passedOver("another rollout is under way")
	}
	defer p.rollout[s.Workload].Unlock()
	if err := p.setImage(ctx, s.Workload, badImage); err != nil {
		return "", err
	}
	p.pause(ctx, s.For)
	p.mu.Lock()
	before := p.images[s.Workload]
	p.mu.Unlock()
	return before, p.setImage(ctx, s.Workload, before)
}

func (p *player) scale(ctx context.Context, s Step) (string, error) {
	p.mu.Lock()
	was := p.replicas[s.Workload]
	p.replicas[s.Workload] = s.Replicas
	p.mu.Unlock()
	return fmt.Sprintf("%d to %d", was, s.Replicas), p.patch(ctx, s.Workload, fmt.Sprintf(`{"spec":{"replicas":%d}}`, s.Replicas))
}

// guarded lists the pods of a namespace, or of all.
func (p *player) guarded(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	err := heard(ctx, func() error {
		list, err := p.stage.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
		if err == nil {
			pods = list.Items
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list pods: %w", err)
	}
	return pods, nil
}

// code is the status with which the API answered.
func code(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return int(status.Status().Code)
	}
	return 0
}

// answers are how often each status was answered.
func answers(codes map[int]int) string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(codes)) {
		parts = append(parts, fmt.Sprintf("%d times %d", codes[c], c))
	}
	return strings.Join(parts, ", ")
}

// deletePods deletes pods like an administrator who does not know better.
func (p *player) deletePods(ctx context.Context, s Step) (string, error) {
	pods, err := p.guarded(ctx, namespaceOf(s.Workload))
	if err != nil || len(pods) == 0 {
		return "", err
	}
	codes := map[int]int{}
	for i := range min(s.Count, len(pods)) {
		pod := pods[(s.Pick+i)%len(pods)]
		err := p.stage.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		codes[code(err)]++
		if state := call.StateOf(pod.Labels, pod.Annotations); err == nil && p.baseline == "" && !p.givenUp(s.Workload) && pod.DeletionTimestamp == nil && ready(pod) && state == call.Serving {
			return answers(codes), fmt.Errorf("pod %s/%s was deleted while it served", pod.Namespace, pod.Name)
		}
	}
	return answers(codes), nil
}

// evictAll evicts every pod again and again.
func (p *player) evictAll(ctx context.Context, s Step) (string, error) {
	pods, err := p.guarded(ctx, metav1.NamespaceAll)
	if err != nil || len(pods) == 0 {
		return "", err
	}
	var mu sync.Mutex
	codes := map[int]int{}
	slots := make(chan struct{}, mostEvictions)
	var asked sync.WaitGroup
	tick := time.NewTicker(evictEvery)
	defer tick.Stop()
	end := p.now() + s.For
	for i := 0; p.now() < end && ctx.Err() == nil; i++ {
		pod := pods[i%len(pods)]
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			err := p.stage.Client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
			mu.Lock()
			defer mu.Unlock()
			codes[code(err)]++
		})
		<-tick.C
	}
	asked.Wait()
	return answers(codes), nil
}
