// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	// jobsPerRate is how many calls an agent can hold at a call a second: four workloads hold some 45 in all, with two agents each at
	// least, and LiveKit offers nothing to an agent above targetLoad.
	jobsPerRate = 20
	// targetLoad is LiveKit's agents.target_load.
	targetLoad = 0.7
	// ableFor is how long an agent must have been able to answer, from when the caller came, to have been a choice for LiveKit, which
	// looks for an agent once, and hears of loads every 2.5 s.
	ableFor = 5 * time.Second
	// answerWithin is how long a caller waits: people hang up sooner, and what is late is accounted for as late.
	answerWithin = 90 * time.Second
	// crashSeen is how long after its agent or its node was killed a call may be found lost.
	crashSeen = Offset(5 * time.Second)
	// namespacePrefix begins the namespaces of workloads.
	namespacePrefix = "soak-"
)

// guardArgs are the guard's flags. Agents that obey the draining annotation need no longer settle window, and nodes are lost for
// less than a minute.
func guardArgs() []string {
	return []string{"--settle=3s", "--candidate-delay=5s", "--lost-node-quiet=5s"}
}

func namespaceOf(workload string) string { return namespacePrefix + workload }

// player plays a schedule on a stage, and keeps the records of what happens.
type player struct {
	t        *testing.T
	stage    *lab.Lab
	schedule Schedule
	baseline Baseline // empty: callguard
	callers  *fleet.Callers
	rooms    string // the beginning of their names

	// next is held, by workload, while no caller may dial; rollout while one is not taken back yet.
	next, rollout map[string]*sync.Mutex
	guards        guards
	sessions      map[types.UID]bool // pods that are locked for their call, of baseline agones-like
	adapter       sync.Mutex
	livekit       sync.Mutex
	plane         sync.Mutex // the control plane and what callguard has in it: one thing is wrong at a time

	zero time.Time // when the schedule began
	end  context.CancelFunc

	mu       sync.Mutex
	waiting  map[string]map[string]bool // workload → rooms that have no agent yet
	where    map[string]place           // room → who had the call
	deeds    []Deed
	away     map[string]bool   // nodes whose kubelet is away
	busy     map[string]bool   // nodes that are cordoned
	images   map[string]string // workload → its agents' image
	replicas map[string]int
	calls    []CallRecord
	drains   []DrainRecord
	steps    []StepRecord
	pods     []PodCount
	usage    []Usage
	failures []string
	dropped  *CallRecord // the first
	lasted   Offset
}

type place struct{ pod, node string }

func newPlayer(t *testing.T, stage *lab.Lab, schedule Schedule, baseline Baseline) *player {
	p := &player{
		t: t, stage: stage, schedule: schedule, baseline: baseline, sessions: map[types.UID]bool{}, callers: stage.NewCallers(), rooms: lab.Telephone(1),
		next: map[string]*sync.Mutex{}, rollout: map[string]*sync.Mutex{}, guards: guards{stage: stage, names: map[string]*lab.Guard{}},
		waiting: map[string]map[string]bool{}, where: map[string]place{}, away: map[string]bool{}, busy: map[string]bool{},
		images: map[string]string{}, replicas: map[string]int{},
	}
	t.Cleanup(p.callers.Close)
	for _, w := range Workloads() {
		p.next[w], p.rollout[w], p.waiting[w] = &sync.Mutex{}, &sync.Mutex{}, map[string]bool{}
		p.replicas[w] = Replicas + more(schedule.Nodes)
	}
	return p
}

// timing is how the processes of a workload behave. Processes take a while, as in both SDKs, and work on for a moment when their
// call is over.
func timing(workload string) map[string]string {
	a := map[string]string{
		fleet.AgentNameAnnotation: namespaceOf(workload), fleet.DialectAnnotation: string(fleet.Python),
		fleet.ProcessSecondsAnnotation: "0-2", fleet.ShutdownSecondsAnnotation: "0-2",
	}
	switch workload {
	case Node:
		a[fleet.DialectAnnotation] = string(fleet.Node)
	case NodeGated:
		a[fleet.DialectAnnotation] = string(fleet.Node)
		// A job that ended while its gate was dead counts for that long, because Node does not report its end.
		a[fleet.GateArgsAnnotation] = "--launch-limit=1m"
	}
	return a
}

// prepare deploys the agents, waits until all can take calls, and starts a guard that stands by.
func (p *player) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	for _, w := range Workloads() {
		ns := namespaceOf(w)
		if err := p.stage.Namespace(ctx, ns); err != nil {
			return err
		}
		d := lab.Agent(ns, int32(p.replicas[w]))
		d.Spec.Template.Annotations = timing(w)
		d.Spec.Template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}},
		}}
		d.Spec.Template.Spec.Tolerations = impatient()
		if p.baseline != "" {
			if err := p.asBaseline(ctx, d); err != nil {
				return err
			}
		} else if slices.Contains(Gated(), w) {
			lab.Gated(&d.Spec.Template, lab.GateKind, true)
		}
		p.images[w] = d.Spec.Template.Spec.Containers[0].Image
		if err := p.created(ctx, d); err != nil {
			return err
		}
	}
	err := lab.Eventually(ctx, setUpWithin, "every agent can take calls", func() (bool, error) {
		n := 0
		for _, a := range p.stage.Fleet.Agents() {
			if p.able(a) {
				n++
			}
		}
		if want := (Replicas + more(p.schedule.Nodes)) * len(Workloads()); n != want {
			return false, fmt.Errorf("%d of %d", n, want)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, w := range Workloads() {
		if err := p.firstCall(ctx, w); err != nil {
			return err
		}
	}
	if p.baseline != "" {
		return nil
	}
	if err := p.autoscale(ctx); err != nil {
		return err
	}
	return p.guards.begin(ctx)
}

// firstCall makes a call to agents that have just come, before the schedule. LiveKit remembers for which names it has workers,
// and learns of the first of a name somewhat later than that worker knows.
func (p *player) firstCall(ctx context.Context, workload string) error {
	return lab.Eventually(ctx, time.Minute, "somebody answers in "+workload, func() (bool, error) {
		call, err := p.callers.Dial(ctx, fmt.Sprintf("%s-first-%s-%d", p.rooms, workload, time.Now().UnixNano()), fleet.DialOptions{AgentName: namespaceOf(workload)})
		if err != nil {
			return false, err
		}
		call.HangUp()
		return true, nil
	})
}

// maxJobs is how many calls an agent can hold.
func maxJobs(s Schedule, b Baseline) int {
	if b == AgonesLike {
		return 1
	}
	return int(math.Ceil(jobsPerRate * max(1, s.Rate)))
}

// able reports whether LiveKit gives an agent a call.
func (p *player) able(a fleet.AgentState) bool {
	return a.Registered && !a.Draining && !a.Closed && float64(jobs(a)) < targetLoad*float64(maxJobs(p.schedule, p.baseline))
}

// choice notes who can answer from now on. After ableFor, was reports whether somebody could all that time.
func (p *player) choice(workload string) (was func() bool, stop func()) {
	able := func() map[types.UID]bool {
		can := map[types.UID]bool{}
		for _, a := range p.agents(workload) {
			can[a.UID] = p.able(a)
		}
		return can
	}
	first := able()
	var steady atomic.Bool
	later := time.AfterFunc(ableFor, func() {
		for uid, can := range able() {
			if can && first[uid] {
				steady.Store(true)
			}
		}
	})
	return steady.Load, func() { later.Stop() }
}

// agents are the running processes of a workload.
func (p *player) agents(workload string) []fleet.AgentState {
	return slices.DeleteFunc(p.stage.Fleet.Agents(), func(a fleet.AgentState) bool { return a.Pod.Namespace != namespaceOf(workload) })
}

// now is the moment of the run.
func (p *player) now() Offset { return Offset(time.Since(p.zero)) }

// until waits for a moment of the run, and reports whether it came before ctx was done.
func (p *player) until(ctx context.Context, at Offset) bool { return p.pause(ctx, at-p.now()) }

func (p *player) pause(ctx context.Context, length Offset) bool {
	timer := time.NewTimer(time.Duration(length))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// play plays the schedule: until it is over and what it began is, too, or until a call is dropped.
func (p *player) play(ctx context.Context) {
	p.zero = time.Now()
	ctx, p.end = context.WithTimeout(ctx, time.Duration(p.schedule.Duration)+answerWithin+settles(p.baseline))
	defer p.end()
	watching, stop := context.WithCancel(ctx)
	var eyes, work sync.WaitGroup
	eyes.Go(func() { p.watch(watching) })

	calls := slices.Clone(p.schedule.Calls)
	slices.SortStableFunc(calls, func(a, b Call) int { return cmp.Compare(a.At, b.At) })
	work.Go(func() {
		for n, c := range calls {
			if !p.until(ctx, c.At) {
				return
			}
			work.Go(func() { p.call(ctx, n, c) })
		}
	})
	steps := slices.Concat(p.schedule.Disruptions, p.schedule.Faults)
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	work.Go(func() {
		for _, s := range steps {
			if !p.until(ctx, s.At) {
				return
			}
			work.Go(func() { p.step(ctx, s) })
		}
	})
	work.Wait()
	switch {
	case p.drop() != nil:
	case errors.Is(context.Cause(ctx), context.Canceled):
		p.fail("the run was interrupted")
	case p.baseline != "": // nobody promises that its drains end
	default:
		p.settled(context.WithoutCancel(ctx))
	}
	stop()
	eyes.Wait()
	if err := p.leaks(context.WithoutCancel(ctx)); err != nil {
		p.fail("%v", err)
	}
	p.mu.Lock()
	p.lasted = p.now()
	p.mu.Unlock()
}

// settled waits until each workload has the pods it should have, and all of them serve.
func (p *player) settled(ctx context.Context) {
	err := lab.Eventually(ctx, settleWithin, "only pods that serve are left", func() (bool, error) {
		for _, w := range Workloads() {
			list, err := p.stage.Client.CoreV1().Pods(namespaceOf(w)).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
			if err != nil {
				return false, err
			}
			want, err := p.wanted(ctx, w)
			if err != nil {
				return false, err
			}
			serving, how := 0, []string(nil)
			for _, pod := range list.Items {
				state := call.StateOf(pod.Labels, pod.Annotations)
				if state == call.Serving && ready(pod) {
					serving++
				}
				how = append(how, fmt.Sprintf("%s %s on %s", pod.Name, state, pod.Spec.NodeName))
			}
			if serving != want || len(list.Items) != want {
				return false, fmt.Errorf("%s shall have %d: %s", w, want, strings.Join(how, "; "))
			}
		}
		return true, nil
	})
	if err != nil {
		p.fail("%v", err)
	}
}

func ready(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// fail notes why the run is not good.
func (p *player) fail(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = append(p.failures, fmt.Sprintf(format, args...))
}

func (p *player) drop() *CallRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

// call makes one call, and keeps its record.
func (p *player) call(ctx context.Context, n int, c Call) {
	room := fmt.Sprintf("%s-%d", p.rooms, n)
	p.next[c.Workload].Lock()
	p.expect(c.Workload, room, true)
	p.next[c.Workload].Unlock()
	r := CallRecord{N: n, Workload: c.Workload, Began: p.now(), Length: c.Length}
	able, stop := p.choice(c.Workload)
	defer stop()
	up, err := p.callers.Dial(ctx, room, fleet.DialOptions{AgentName: namespaceOf(c.Workload), AnswerWithin: answerWithin, Speaks: true})
	p.expect(c.Workload, room, false)
	if err != nil {
		r.Ended, r.Detail, r.Stopped, r.Able = p.now(), err.Error(), ctx.Err() != nil, able()
		p.keep(room, r)
		return
	}
	r.Answered, r.Answer = true, p.now()-r.Began
	talks := time.NewTimer(time.Duration(c.Length))
	defer talks.Stop()
	select {
	case <-talks.C:
	case <-up.Done():
	case <-ctx.Done():
	}
	up.HangUp()
	r.Ended = p.now()
	if loss, lost := up.Dropped(); lost {
		r.Cause, r.Detail = string(loss.Cause), loss.Detail
		r.Pod, r.Node, r.Ended = loss.Pod.Name, loss.Node, Offset(loss.At.Sub(p.zero))
		p.mu.Lock()
		r.Lost = LostBy(r, p.deeds)
		p.mu.Unlock()
	}
	p.keep(room, r)
}

// expect notes that a caller waits for an agent, or does no longer.
func (p *player) expect(workload, room string, waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if waits {
		p.waiting[workload][room] = true
		return
	}
	delete(p.waiting[workload], room)
}

// keep keeps the record of a call that is over. A dropped one ends the run.
func (p *player) keep(room string, r CallRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Pod == "" {
		r.Pod, r.Node = p.where[room].pod, p.where[room].node
	}
	delete(p.where, room)
	p.calls = append(p.calls, r)
	switch r.Outcome() {
	case Dropped:
		p.t.Logf("call %d to %s was dropped at %s: %s %s (pod %s on %s)", r.N, r.Workload, short(r.Ended), r.Cause, r.Detail, r.Pod, r.Node)
		if p.dropped == nil && p.baseline == "" {
			p.dropped = &r
			p.end()
		}
	case Unanswered:
		p.t.Logf("call %d to %s, from %s, was not answered until %s: %s", r.N, r.Workload, short(r.Began), short(r.Ended), r.Detail)
	case Completed, EndedByCaller, LostWithAgent, LostWithNode, LostWithoutGuard:
	}
}

// waitingRooms are the rooms in which callers of a workload wait.
func (p *player) waitingRooms(workload string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.waiting[workload]))
}
