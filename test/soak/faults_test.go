// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	// leadsWithin is how long nobody may lead after a guard that led has ended: 10 s, more on a busy machine, and more while
	// kube-apiserver is away.
	leadsWithin = heardWithin + time.Minute
	// adapterAway is how long an adapter that was killed stays away.
	adapterAway = Offset(2 * time.Second)
	// LiveKit is held for a part of each turn. Its participants' connections survive that.
	liveKitHeld, liveKitRuns = Offset(300 * time.Millisecond), Offset(700 * time.Millisecond)
)

// guards are two guards, as the chart installs them: one leads, one stands by.
type guards struct {
	stage *lab.Lab
	fault sync.Mutex // one at a time

	mu    sync.Mutex
	alive []*lab.Guard
	names map[string]*lab.Guard // of those that have led, as in the lease
}

// begin takes in the guard of the stage, and starts the other.
func (g *guards) begin(ctx context.Context) error {
	g.alive = []*lab.Guard{g.stage.Guard}
	if _, err := g.leads(ctx, ""); err != nil {
		return err
	}
	return g.standBy(ctx)
}

// all lists the guards that run.
func (g *guards) all() []*lab.Guard {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.alive)
}

// standBy starts a guard that is ready to lead.
func (g *guards) standBy(ctx context.Context) error {
	var guard *lab.Guard
	err := heard(ctx, func() (err error) {
		guard, err = g.stage.StartGuard(ctx, guardArgs()...)
		return err
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.alive = append(g.alive, guard)
	g.mu.Unlock()
	return guard.WaitReady(ctx)
}

// leads waits until another guard leads than before, and returns its name. Which of them it is shows by who has led already: of
// those that run, at most one has not.
func (g *guards) leads(ctx context.Context, before string) (name string, err error) {
	err = lab.Eventually(ctx, leadsWithin, "a guard leads", func() (bool, error) {
		lease, err := g.stage.Client.CoordinationV1().Leases(lab.GuardNamespace).Get(ctx, leader.LeaseName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		name = ptr.Deref(lease.Spec.HolderIdentity, "")
		return name != "" && name != before, nil
	})
	if err != nil {
		return "", err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.names[name] != nil {
		return name, nil
	}
	for _, guard := range g.alive {
		known := false
		for _, led := range g.names {
			known = known || led == guard
		}
		if !known {
			g.names[name] = guard
			return name, nil
		}
	}
	return "", fmt.Errorf("%s leads, and is none of the guards that were started", name)
}

func (g *guards) named(name string) *lab.Guard {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names[name]
}

// replace ends the guard that leads. Another one leads, and a new one stands by.
func (g *guards) replace(ctx context.Context, end func(*lab.Guard) error) (string, error) {
	g.fault.Lock()
	defer g.fault.Unlock()
	name, err := g.leads(ctx, "")
	if err != nil {
		return "", err
	}
	guard := g.named(name)
	if err := end(guard); err != nil {
		return "", err
	}
	ended := time.Now()
	g.mu.Lock()
	g.alive = slices.DeleteFunc(g.alive, func(other *lab.Guard) bool { return other == guard })
	g.mu.Unlock()
	if _, err := g.leads(ctx, name); err != nil {
		return "", err
	}
	return fmt.Sprintf("another one leads after %s", short(Offset(time.Since(ended)))), g.standBy(ctx)
}

// hold pauses the guard that leads for as long as a wait takes.
func (g *guards) hold(ctx context.Context, wait func()) (string, error) {
	g.fault.Lock()
	defer g.fault.Unlock()
	name, err := g.leads(ctx, "")
	if err != nil {
		return "", err
	}
	guard := g.named(name)
	if err := guard.Pause(); err != nil {
		return "", err
	}
	wait()
	return "", guard.Continue()
}

// replaceAdapter ends the adapter and starts another.
func (p *player) replaceAdapter(ctx context.Context, kill bool) (string, error) {
	p.adapter.Lock()
	defer p.adapter.Unlock()
	if kill {
		if err := p.stage.Adapter.Kill(); err != nil {
			return "", err
		}
		p.pause(ctx, adapterAway)
	}
	return "", heard(ctx, func() error { return p.stage.RestartAdapter(ctx) })
}

func (p *player) holdAdapter(ctx context.Context, s Step) (string, error) {
	p.adapter.Lock()
	defer p.adapter.Unlock()
	if err := p.stage.Adapter.Pause(); err != nil {
		return "", err
	}
	p.pause(ctx, s.For)
	return "", p.stage.Adapter.Continue()
}

// nobodyOnTheWay waits until no job of a workload is on its way to an agent. LiveKit sends an assignment once, and offers a job to
// nobody else when an offer was not answered within 3 s: one that is in a gate that dies or stands still is lost, with or without
// Kubernetes. Nobody may dial meanwhile.
func (p *player) nobodyOnTheWay(ctx context.Context, workload string) error {
	err := lab.Eventually(ctx, answerWithin, "every caller's job is with an agent", func() (bool, error) {
		with := map[string]bool{}
		for _, a := range p.agents(workload) {
			for _, room := range slices.Concat(a.Rooms, a.Waiting) {
				with[room] = true
			}
		}
		return !slices.ContainsFunc(p.waitingRooms(workload), func(room string) bool { return !with[room] }), nil
	})
	if err != nil {
		return passedOver("a caller waits for an agent")
	}
	return nil
}

// killGate kills the gate of a pod that has a job, if there is one.
func (p *player) killGate(ctx context.Context, s Step) (string, error) {
	return p.atGate(ctx, s, func(pod types.NamespacedName) (func() error, error) {
		return func() error { return nil }, p.stage.Fleet.KillGate(pod)
	})
}

// holdGate pauses the gate of such a pod. Nobody dials its workload until it goes on.
func (p *player) holdGate(ctx context.Context, s Step) (string, error) {
	return p.atGate(ctx, s, p.stage.Fleet.PauseGate)
}

// atGate does something to the gate of a pod, and ends it after the step's time, while nobody dials its workload.
func (p *player) atGate(ctx context.Context, s Step, do func(types.NamespacedName) (end func() error, err error)) (string, error) {
	p.next[s.Workload].Lock()
	defer p.next[s.Workload].Unlock()
	if err := p.nobodyOnTheWay(ctx, s.Workload); err != nil {
		return "", err
	}
	a, ok := p.pick(s)
	if !ok {
		return "", passedOver("there is no agent")
	}
	end, err := do(a.Pod)
	if err != nil {
		return "", passedOver(err.Error()) // its pod has just gone
	}
	p.pause(ctx, s.For)
	return fmt.Sprintf("%s, under %s", a.Pod.Name, many(jobs(a), "job")), end()
}

func jobs(a fleet.AgentState) int { return a.ActiveJobs + len(a.Waiting) }

// pick picks an agent of a workload that has a job, or any if none has.
func (p *player) pick(s Step) (fleet.AgentState, bool) {
	agents := p.agents(s.Workload)
	if busy := slices.DeleteFunc(slices.Clone(agents), func(a fleet.AgentState) bool { return jobs(a) == 0 }); len(busy) > 0 {
		agents = busy
	}
	if len(agents) == 0 {
		return fleet.AgentState{}, false
	}
	return agents[s.Pick%len(agents)], true
}

// did notes what the schedule does now. What ends at once is found soon after.
func (p *player) did(d Deed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.From = p.now()
	d.To = d.From + crashSeen
	p.deeds = append(p.deeds, d)
}

// killAgent kills an agent, whose calls are lost with it. Nobody waits for an agent then.
func (p *player) killAgent(ctx context.Context, s Step) (string, error) {
	p.next[s.Workload].Lock()
	defer p.next[s.Workload].Unlock()
	err := lab.Eventually(ctx, answerWithin, "nobody waits", func() (bool, error) { return len(p.waitingRooms(s.Workload)) == 0, nil })
	if err != nil {
		return "", passedOver("a caller waits for an agent")
	}
	agents := p.agents(s.Workload)
	if len(agents) == 0 {
		return "", passedOver("there is no agent")
	}
	a := agents[s.Pick%len(agents)]
	p.did(Deed{Outcome: LostWithAgent, Cause: string(fleet.CauseCrash), Pod: a.Pod.Name})
	if err := p.stage.Fleet.Kill(a.Pod); err != nil {
		return "", passedOver(err.Error()) // it has just ended
	}
	return fmt.Sprintf("%s, with %s", a.Pod.Name, many(a.ActiveJobs, "call")), nil
}

// slowLiveKit holds LiveKit again and again, for moments.
func (p *player) slowLiveKit(ctx context.Context, s Step) (string, error) {
	p.livekit.Lock()
	defer p.livekit.Unlock()
	name := local.LiveKitName(1)
	for end := p.now() + s.For; p.now() < end && ctx.Err() == nil; p.pause(ctx, liveKitRuns) {
		err := p.stage.Cluster.Pause(ctx, name)
		p.pause(ctx, liveKitHeld)
		if err := errors.Join(err, p.stage.Cluster.Continue(context.WithoutCancel(ctx), name)); err != nil {
			return "", err
		}
	}
	return "", nil
}
