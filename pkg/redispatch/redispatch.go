// SPDX-License-Identifier: Apache-2.0

// Package redispatch makes LiveKit look again for an agent for waiting calls when a pod can
// take them. LiveKit itself looks only once, when the caller comes.
//
// It does not find out which calls wait or which pods are able, does not send requests
// itself, and does nothing for workloads that have not enabled it.
package redispatch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// every is how often it checks whether a pod can take a waiting call.
	every = time.Second
	// pause is the minimum time between two dispatches of a room: by then the agent of the
	// first is in the room, or none comes.
	pause = 10 * time.Second
	// maxTimes is the maximum number of dispatches of a room.
	maxTimes = 20
	// unsureTries is how often a room is dispatched because of one ready pod without
	// call-gate, which may be ready before it is registered with LiveKit.
	unsureTries = 3
	// maxOrders is the maximum number of dispatches of a project in one step, and stepLimit
	// the time limit of a step.
	maxOrders = 50
	stepLimit = 20 * time.Second
	// maxProjects is how many projects are handled at the same time.
	maxProjects = 8
)

// Config is what a Dispatcher needs.
type Config struct {
	// Waiting returns which calls of a LiveKit project wait for an agent.
	Waiting func(call.Project, time.Time) (call.Waiting, error)
	// Demands returns which workloads could take them, with or without pods.
	Demands func() []call.Demand
	// Pods returns the guarded pods.
	Pods func() []*call.Pod
	// Ability returns a pod's ability to take calls as its call-gate reports it, and Ask asks
	// the gates of some pods now.
	Ability func(*call.Pod, time.Time) call.Ability
	Ask     func(...types.UID)
	// Dispatch asks LiveKit for an agent of that name for a room, and reports whether it did.
	// It does not if that is no longer needed.
	Dispatch func(ctx context.Context, project call.Project, room, agent string) (bool, error)
	// Mine reports whether this replica is in charge of a room.
	Mine     func(room string) bool
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Dispatcher dispatches waiting calls again.
type Dispatcher struct {
	cfg   Config
	book  book
	total *prometheus.CounterVec
}

// New returns a Dispatcher that does nothing until Run.
func New(cfg Config) (*Dispatcher, error) {
	d := &Dispatcher{cfg: cfg, book: book{}, total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "callguard", Name: "dispatches_again_total",
		Help: "Agents that LiveKit was asked for again for calls that waited, by outcome (sent, needless: one had come, the caller had gone, or somebody else had asked; error).",
	}, []string{"outcome"})}
	if err := cfg.Registry.Register(d.total); err != nil {
		return nil, fmt.Errorf("cannot register the dispatches: %w", err)
	}
	return d, nil
}

// Run dispatches until ctx is done.
func (d *Dispatcher) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.step(ctx)
		}
	}
}

// step dispatches, in each project, the waiting calls that can be taken now.
func (d *Dispatcher) step(ctx context.Context) {
	now := time.Now()
	pods := map[call.Project][]taker{}
	for _, pod := range d.cfg.Pods() {
		if !pod.Demand.Again || pod.State != call.Serving || !pod.Running || !pod.Ready || pod.Terminating {
			continue
		}
		t := taker{uid: pod.UID, demand: pod.Demand, tries: unsureTries}
		if pod.Asks(call.Gate) {
			switch ability := d.cfg.Ability(pod, now); {
			case ability == call.Able:
				t.tries = 1
			case ability != call.Unsaid:
				t.tries = 0
			}
		}
		pods[pod.Project] = append(pods[pod.Project], t)
	}
	maps.DeleteFunc(d.book, func(project call.Project, _ map[string]*room) bool { return len(pods[project]) == 0 })
	if len(pods) == 0 {
		return
	}
	demands := map[call.Project][]call.Demand{}
	for _, demand := range d.cfg.Demands() {
		demands[demand.Project] = append(demands[demand.Project], demand)
	}
	g := errgroup.Group{}
	g.SetLimit(maxProjects)
	for project, takers := range pods {
		waiting, err := d.cfg.Waiting(project, now)
		if err != nil {
			continue // the metrics API reports why
		}
		waiting.Rooms = slices.DeleteFunc(waiting.Rooms, func(r call.WaitingRoom) bool { return !d.cfg.Mine(r.Room) })
		d.askUnable(waiting, takers)
		orders := d.book.due(project, waiting.Rooms, demands[project], takers, now)
		g.Go(func() error { d.send(ctx, project, orders); return nil })
	}
	_ = g.Wait() // none returns an error
}

// askUnable asks the gates of ready pods that were not able when they were last asked,
// because calls wait for them.
func (d *Dispatcher) askUnable(waiting call.Waiting, takers []taker) {
	if len(waiting.Rooms) == 0 {
		return
	}
	for _, t := range takers {
		if t.tries == 0 {
			d.cfg.Ask(t.uid)
		}
	}
}

// send carries out the orders of one project.
func (d *Dispatcher) send(ctx context.Context, project call.Project, orders []order) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for _, o := range orders {
		sent, err := d.cfg.Dispatch(ctx, project, o.room.Room, o.agent)
		switch {
		case err != nil:
			o.failed()
			d.total.WithLabelValues("error").Inc()
			d.cfg.Log.Warn("Cannot ask LiveKit to dispatch an agent again; retrying", "project", project, "err", err)
		case sent:
			d.total.WithLabelValues("sent").Inc()
			d.cfg.Log.Info("Asked LiveKit to dispatch an agent again: a call waits, and a pod can take it",
				"project", project, "agent", call.Plain(o.agent, call.MaxAgentName), "waits", time.Since(o.room.Since).Round(time.Second))
		default:
			d.total.WithLabelValues("needless").Inc()
		}
	}
}

// taker is a pod that could take calls, and how often a room may be dispatched because of
// it.
type taker struct {
	uid    types.UID
	demand call.Demand
	tries  int
}

// book has what was dispatched again, by project and room. It does no I/O and reads no
// clock.
type book map[call.Project]map[string]*room

type room struct {
	last  time.Time
	times int
	tried map[types.UID]int
}

// order is a room that has to be dispatched again, and because of which pods.
type order struct {
	room  call.WaitingRoom
	agent string
	pods  []types.UID
	entry *room
}

// failed records that LiveKit was not asked, so that the tries of the pods do not count.
func (o order) failed() {
	for _, uid := range o.pods {
		o.entry.tried[uid]--
	}
}

// due returns the present orders, and records them as carried out: a room is dispatched if
// a pod could take its call, and it was not yet dispatched because of that pod as often as
// allowed. Rooms that no longer wait are dropped.
func (b book) due(project call.Project, waiting []call.WaitingRoom, demands []call.Demand, takers []taker, now time.Time) []order {
	rooms := b[project]
	if rooms == nil {
		rooms = map[string]*room{}
		b[project] = rooms
	}
	maps.DeleteFunc(rooms, func(name string, _ *room) bool {
		return !slices.ContainsFunc(waiting, func(w call.WaitingRoom) bool { return w.Room == name })
	})
	all := slices.Clone(demands)
	for _, t := range takers {
		all = append(all, t.demand)
	}
	var orders []order
	for _, w := range waiting {
		entry := rooms[w.Room]
		if entry == nil {
			entry = &room{tried: map[types.UID]int{}}
			rooms[w.Room] = entry
		}
		if len(orders) >= maxOrders || entry.times >= maxTimes || entry.times > 0 && now.Sub(entry.last) < pause {
			continue
		}
		for _, want := range w.Wants {
			takes := call.WaitingRoom{Wants: []string{want}}.Takers(all)[len(demands):]
			var fresh []types.UID
			for i, t := range takers {
				if takes[i] && entry.tried[t.uid] < t.tries {
					fresh = append(fresh, t.uid)
				}
			}
			if len(fresh) == 0 {
				continue
			}
			for _, uid := range fresh {
				entry.tried[uid]++
			}
			entry.last, entry.times = now, entry.times+1
			orders = append(orders, order{w, want, fresh, entry})
			break // another name has its turn after the pause
		}
	}
	return orders
}
