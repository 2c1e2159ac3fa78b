// SPDX-License-Identifier: Apache-2.0

// Package fleet runs many LiveKit agent workers in one process: one for every running guarded pod of a cluster with simulated
// nodes. It simulates the container processes of those pods, so that everything else is real: livekit-server, the worker
// protocol, the agents' and callers' connections, the Kubernetes API and the signals that pods get from it.
//
// A process has the timing of LiveKit Agents for Python or for Node if its pod's annotations ask for it, and may have a real
// call-gate between itself and LiveKit.
//
// A pod's process registers with LiveKit, joins the rooms it is given, answers GET /worker on the pod's IP, drains on SIGTERM (a
// deletionTimestamp) and is killed when the grace period ends or the pod is gone. It accepts no new job once its pod is marked
// draining. Callers are real participants, and every call that ends without its caller hanging up is reported with its cause.
//
// Two properties of LiveKit show in every run. It tells participants about others who publish nothing only every 3 s, so a caller
// sees its agent, and an agent sees its caller leave, up to 3 s late. And when it comes back empty after an outage, callers and
// agents create their rooms again, and it dispatches a second agent if workers were back first.
//
// It does not replace LiveKit, carries no audio, schedules nothing, and writes only two things to the cluster, each as the pod's
// node: the statuses of containers that exited or restarted, and the results of readiness probes.
package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// Fleet simulates the processes of guarded pods.
type Fleet struct {
	cfg    Config
	losses *losses

	mu        sync.Mutex
	processes map[types.UID]*process // exited ones stay until their pod is gone
	alive     map[types.UID]bool
	sidecars  map[types.UID]*sidecar
	kubelets  map[types.UID]*kubelet
	nodes     corelisters.NodeLister
	running   sync.WaitGroup
}

// New checks cfg. Nothing is dialed or started before Run.
func New(cfg Config) (*Fleet, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	silenceSDK()
	return &Fleet{
		cfg: cfg, losses: &losses{}, processes: map[types.UID]*process{}, alive: map[types.UID]bool{},
		sidecars: map[types.UID]*sidecar{}, kubelets: map[types.UID]*kubelet{},
	}, nil
}

// Run follows the cluster until ctx ends. It then stops every process as if killed, and returns nil when all have ended.
func (f *Fleet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	guarded := informers.NewSharedInformerFactoryWithOptions(f.cfg.Client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = GuardedLabel + "=true,!" + UnplayedLabel }))
	all := informers.NewSharedInformerFactory(f.cfg.Client, 0)
	f.mu.Lock()
	f.nodes = all.Core().V1().Nodes().Lister()
	f.mu.Unlock()
	defer f.endAll()
	defer f.running.Wait()
	defer guarded.Shutdown()
	defer all.Shutdown()
	defer cancel()

	if _, err := all.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(o any) {
			if node, ok := deleted[*corev1.Node](o); ok {
				f.KillNode(node.Name)
			}
		},
	}); err != nil {
		return fmt.Errorf("fleet cannot watch nodes: %w", err)
	}
	// Nodes first, because they show whether a pod was lost with its node.
	all.Start(ctx.Done())
	if err := synced(ctx, all); err != nil {
		return err
	}
	if _, err := guarded.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { f.observe(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { f.observe(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if pod, ok := deleted[*corev1.Pod](o); ok {
				f.gone(pod)
			}
		},
	}); err != nil {
		return fmt.Errorf("fleet cannot watch pods: %w", err)
	}
	guarded.Start(ctx.Done())
	if err := synced(ctx, guarded); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// synced waits for the first lists. The end of ctx is no error.
func synced(ctx context.Context, factory informers.SharedInformerFactory) error {
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok && ctx.Err() == nil {
			return fmt.Errorf("fleet cannot list %v; check the rights of Config.Client", kind)
		}
	}
	return nil
}

// deleted unwraps the object that an informer reports as deleted.
func deleted[T any](o any) (T, bool) {
	if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = unknown.Obj
	}
	t, ok := o.(T)
	return t, ok
}

// observe starts, terminates or kills the process of a pod, according to the pod's state.
func (f *Fleet) observe(ctx context.Context, pod *corev1.Pod) {
	f.mu.Lock()
	p, alive := f.processes[pod.UID], f.alive[pod.UID]
	if status, _ := mainStatus(pod); !alive && containerRuns(pod) && ctx.Err() == nil && (p == nil || status.RestartCount > p.restarts) {
		p = f.startLocked(ctx, pod)
		alive = p != nil
	}
	f.mu.Unlock()
	if alive {
		p.read(pod)
	}
	switch {
	case !alive:
	case pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 0) == 0 && !p.terminating():
		p.kill(CauseForced) // without any grace period
	case pod.DeletionTimestamp != nil:
		p.terminate(time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	case containerStopped(pod):
		p.kill(CauseStatus)
	}
}

func (f *Fleet) startLocked(ctx context.Context, pod *corev1.Pod) *process {
	gate := f.sidecars[pod.UID]
	if gate == nil && f.gated(pod) {
		var err error
		if gate, err = f.newSidecar(pod); err != nil {
			f.cfg.Log.Error("Gate is not started", "err", err)
			return nil
		}
		f.sidecars[pod.UID] = gate
	}
	p, err := newProcess(pod, f.cfg, gate, f.losses)
	if err != nil {
		f.cfg.Log.Error("Process is not started", "err", err)
		return nil
	}
	if k := f.kubelets[pod.UID]; k != nil {
		k.resume(pod)
	} else if pod.Annotations[ProbedAnnotation] == "true" {
		f.kubelets[pod.UID] = f.newKubelet(ctx, pod)
	}
	p.exited = f.exited
	f.processes[pod.UID], f.alive[pod.UID] = p, true
	f.running.Go(func() { p.run(ctx) })
	return p
}

// drop ends whatever a node runs for a pod besides its process.
func (f *Fleet) drop(pod types.UID, atOnce bool) {
	f.mu.Lock()
	gate, kubelet := f.sidecars[pod], f.kubelets[pod]
	delete(f.sidecars, pod)
	delete(f.kubelets, pod)
	f.mu.Unlock()
	if kubelet != nil {
		kubelet.stop()
	}
	if gate != nil {
		gate.end(atOnce)
	}
}

// endAll drops every pod.
func (f *Fleet) endAll() {
	f.mu.Lock()
	var pods []types.UID
	for uid := range f.sidecars {
		pods = append(pods, uid)
	}
	for uid := range f.kubelets {
		pods = append(pods, uid)
	}
	f.mu.Unlock()
	for _, uid := range pods {
		f.drop(uid, true)
	}
}

func (f *Fleet) sidecarOf(pod types.UID) *sidecar {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sidecars[pod]
}

// gone kills the process of a pod that is no longer in the cluster, if it still runs.
func (f *Fleet) gone(pod *corev1.Pod) {
	f.mu.Lock()
	p, alive, nodes := f.processes[pod.UID], f.alive[pod.UID], f.nodes
	delete(f.processes, pod.UID)
	delete(f.alive, pod.UID)
	f.mu.Unlock()
	defer f.drop(pod.UID, true)
	if !alive {
		return
	}
	cause := CauseForced
	if _, err := nodes.Get(pod.Spec.NodeName); err != nil {
		cause = CauseNode
	} else if p.pastGrace(time.Now()) {
		cause = CauseGrace // the pod was removed before the process's own timer fired
	}
	p.kill(cause)
}

// exited tells the cluster that a process ended, as its kubelet would, and starts a crashed one again.
func (f *Fleet) exited(ctx context.Context, p *process, end exit) {
	f.mu.Lock()
	_, there := f.processes[p.pod.UID]
	if there {
		f.alive[p.pod.UID] = false
	}
	kubelet := f.kubelets[p.pod.UID]
	f.mu.Unlock()
	if end.cause != "" && end.cause != CauseCrash {
		f.drop(p.pod.UID, end.cause != CauseGrace)
	} else if p.terminating() {
		f.drop(p.pod.UID, false) // a native sidecar ends after the others
	} else if kubelet != nil {
		kubelet.pause()
	}
	if !there || end.cause == CauseForced || end.cause == CauseNode || end.cause == CauseStatus {
		return // no kubelet, or nothing to write
	}
	leaving := p.terminating() || end.cause != "" && end.cause != CauseCrash
	if err := f.writeStatus(ctx, p.pod, stoppedStatus(p.pod, p.container, end.code, leaving, time.Now())); err != nil {
		p.log.Error("Exit of a process is not in its pod's status", "err", err)
		return
	}
	if leaving || p.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(restartDelay):
	}
	if err := f.writeStatus(ctx, p.pod, restartedStatus(p.pod, p.container, kubelet != nil, time.Now())); err != nil {
		p.log.Error("Restart of a process is not in its pod's status", "err", err)
	}
}

// Kill crashes the agent of a pod, as SIGKILL would. Its calls are lost with CauseCrash, the pod's status has exit code 137, and
// the container restarts after a second unless the pod's restart policy is Never.
func (f *Fleet) Kill(pod types.NamespacedName) error {
	f.mu.Lock()
	var victim *process
	for uid, p := range f.processes {
		if f.alive[uid] && !p.wasKilled() && p.pod.Namespace == pod.Namespace && p.pod.Name == pod.Name {
			victim = p
		}
	}
	f.mu.Unlock()
	if victim == nil {
		return fmt.Errorf("cannot kill the agent of pod %s: it has no running process; wait until Agents lists it", pod)
	}
	victim.kill(CauseCrash)
	return nil
}

// KillGate crashes the gate of a pod, as SIGKILL would. It restarts after a second, with the same files.
func (f *Fleet) KillGate(pod types.NamespacedName) error {
	gate, err := f.gateOf(pod)
	if err != nil {
		return fmt.Errorf("cannot kill %w", err)
	}
	return gate.kill()
}

// PauseGate pauses the gate of a pod, like an overloaded machine: its connections stay open and silent. resume continues it, and
// may be called for a gate that has ended meanwhile.
func (f *Fleet) PauseGate(pod types.NamespacedName) (resume func() error, err error) {
	gate, err := f.gateOf(pod)
	if err != nil {
		return nil, fmt.Errorf("cannot pause %w", err)
	}
	return gate.pause()
}

func (f *Fleet) gateOf(pod types.NamespacedName) (*sidecar, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for uid, p := range f.processes {
		if gate := f.sidecars[uid]; f.alive[uid] && gate != nil && p.pod.Namespace == pod.Namespace && p.pod.Name == pod.Name {
			return gate, nil
		}
	}
	return nil, fmt.Errorf("the gate of pod %s: it has none; set its annotation %s", pod, GateAnnotation)
}

// KillNode kills every process of a node, as a power cut would, and returns their number. No status is written.
func (f *Fleet) KillNode(node string) int {
	f.mu.Lock()
	var victims []*process
	for uid, p := range f.processes {
		if f.alive[uid] && !p.wasKilled() && p.pod.Spec.NodeName == node {
			victims = append(victims, p)
		}
	}
	f.mu.Unlock()
	for _, p := range victims {
		p.kill(CauseNode)
		f.drop(p.pod.UID, true)
	}
	return len(victims)
}

// AgentState is the state of one process.
type AgentState struct {
	Pod  types.NamespacedName
	UID  types.UID
	Node string
	// ActiveJobs counts jobs from their launch, before they join a room, until their process has ended.
	ActiveJobs int
	Rooms      []string
	// Waiting are the rooms of assigned jobs that wait for a process.
	Waiting []string
	// Draining means that the process got SIGTERM; Closed means that the process, or its gate, obeys its pod's DrainingAnnotation.
	Draining, Closed bool
	Registered       bool
	// Gate is the address of the pod's call-gate, empty without one.
	Gate string
}

// Agents lists the running processes by namespace and name.
func (f *Fleet) Agents() []AgentState {
	f.mu.Lock()
	var running []*process
	for uid, p := range f.processes {
		if f.alive[uid] && !p.wasKilled() {
			running = append(running, p)
		}
	}
	f.mu.Unlock()
	out := make([]AgentState, 0, len(running))
	for _, p := range running {
		s, h := p.worker.state(), p.holder()
		slices.Sort(s.rooms)
		slices.Sort(s.waiting)
		a := AgentState{
			Pod: h.pod, UID: h.uid, Node: h.node, ActiveJobs: s.info.ActiveJobs, Rooms: s.rooms, Waiting: s.waiting,
			Draining: s.draining, Closed: s.closed || p.marked.Load(), Registered: s.registered,
		}
		if p.gate != nil {
			a.Gate = p.gate.statusURL
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b AgentState) int { return strings.Compare(a.Pod.String(), b.Pod.String()) })
	return out
}

// Losses lists every call whose agent ended before its caller had left, in the order in which they were lost.
func (f *Fleet) Losses() []Loss { return f.losses.list() }
