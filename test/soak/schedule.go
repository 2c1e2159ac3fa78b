// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Offset is a moment of a run, counted from its start, or a length of time. In JSON it is a text such as "1m30s".
type Offset time.Duration

// String implements fmt.Stringer.
func (o Offset) String() string { return time.Duration(o).String() }

// Seconds returns the offset as a number of seconds.
func (o Offset) Seconds() float64 { return time.Duration(o).Seconds() }

// MarshalText implements encoding.TextMarshaler.
func (o Offset) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Offset) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no length of time; use one such as 1m30s", text)
	}
	*o = Offset(d)
	return nil
}

// Kind is what a step does.
type Kind string

// What people and controllers do to a cluster.
const (
	DrainNode   Kind = "drain"
	DrainNodes  Kind = "drain of several nodes"
	TakeBack    Kind = "cordon, taken back"
	RollOut     Kind = "rollout"
	RollOutBad  Kind = "broken rollout, undone"
	ScaleUp     Kind = "scale-up"
	ScaleDown   Kind = "scale-down"
	DeletePods  Kind = "deletes"
	EvictAll    Kind = "storm of evictions"
	OptOut      Kind = "opt-out, taken back"
	KillGuard   Kind = "guard that leads killed"
	PauseGuard  Kind = "guard that leads paused"
	StopGuard   Kind = "guard that leads restarted"
	KillAdapter Kind = "adapter killed"
	HoldAdapter Kind = "adapter paused"
	StopAdapter Kind = "adapter restarted"
	KillGate    Kind = "gate killed"
	HoldGate    Kind = "gate paused"
	FullDisk    Kind = "disk of a gate full"
	KillAgent   Kind = "agent killed"
	SlowLiveKit Kind = "LiveKit slow"

	KillAPIServer   Kind = "kube-apiserver killed"
	HoldAPIServer   Kind = "kube-apiserver paused"
	KillEtcd        Kind = "etcd killed"
	HoldEtcd        Kind = "etcd paused"
	KillControllers Kind = "controller-manager killed"
	KillScheduler   Kind = "scheduler killed"

	LoseNode   Kind = "node lost"
	LoseReport Kind = "kubelet away"

	AlterPolicy Kind = "policy or binding altered"
	AlterBudget Kind = "budget altered"
	AlterRights Kind = "rights of the guard taken"
	AlterKey    Kind = "key of LiveKit altered"
	AlterLabels Kind = "labels altered"
)

// Disruptions lists the kinds of steps that a cluster's owner takes.
func Disruptions() []Kind {
	return []Kind{DrainNode, DrainNodes, TakeBack, RollOut, RollOutBad, ScaleUp, ScaleDown, DeletePods, EvictAll, OptOut}
}

// Faults lists the kinds of steps that nobody wants.
func Faults() []Kind {
	return slices.Concat(
		[]Kind{KillGuard, PauseGuard, StopGuard, KillAdapter, HoldAdapter, StopAdapter, KillGate, HoldGate, FullDisk, KillAgent, SlowLiveKit},
		[]Kind{KillAPIServer, HoldAPIServer, KillEtcd, HoldEtcd, KillControllers, KillScheduler},
		[]Kind{AlterPolicy, AlterBudget, AlterRights, AlterKey, AlterLabels},
		[]Kind{LoseNode, LoseReport},
		networkFaults(),
	)
}

// The workloads of a run: agents with the protocol and the timing of both SDKs, with and without call-gate.
const (
	Python      = "python"
	Node        = "node"
	PythonGated = "python-gated"
	NodeGated   = "node-gated"
)

// Workloads lists the workloads of a run.
func Workloads() []string { return []string{Python, Node, PythonGated, NodeGated} }

// Gated lists the workloads that have a call-gate.
func Gated() []string { return []string{PythonGated, NodeGated} }

// Scaled is the workload that an HPA scales on its calls.
const Scaled = Node

// ByHand lists those that people scale.
func ByHand() []string { return []string{Python, PythonGated, NodeGated} }

const (
	// Nodes is how many nodes a stage has, unless more are asked for.
	Nodes = 10
	// LeastNodes is how many of them stay open at any time.
	LeastNodes = 4
	// Replicas is what each workload begins with.
	Replicas = 3

	leastReplicas, mostReplicas = 2, 6
	shortest, longest           = time.Minute, 24 * time.Hour
	slowest, fastest            = 0.1, 20.0
	easiest, hardest            = 0.1, 5.0
	mostNodes                   = 100

	between      = 10 * time.Second // disruptions, on average, at a pace of 1
	betweenFault = 20 * time.Second
	// In a short run steps come closer, and no closer than that.
	leastBetween, leastBetweenFault = 4 * time.Second, 8 * time.Second

	atEnds    = 10 * time.Second // nothing is disrupted at the start and at the end
	leastCall = 2 * time.Second
	briefCall = 6 * time.Second
)

// Call is a caller of the schedule.
type Call struct {
	At Offset `json:"at"`
	// Length is how long the caller talks, from the answer on.
	Length   Offset `json:"length"`
	Workload string `json:"workload"`
}

// Step is a disruption or a fault.
type Step struct {
	At   Offset `json:"at"`
	Kind Kind   `json:"kind"`
	// Workload is the affected workload, if there is one.
	Workload string `json:"workload,omitempty"`
	// Node is the first node that is asked for, and Count how many nodes, or pods, it takes.
	Node  int `json:"node,omitempty"`
	Count int `json:"count,omitempty"`
	// Replicas is how many the workload shall have.
	Replicas int `json:"replicas,omitempty"`
	// For is how long it lasts where something is taken back.
	For Offset `json:"for,omitempty"`
	// Link is between whom connections are in trouble.
	Link Link `json:"link,omitempty"`
	// Pick chooses among the pods that there are then.
	Pick int `json:"pick,omitempty"`
}

// Schedule is everything that happens in a run.
type Schedule struct {
	Seed     uint64 `json:"seed"`
	Duration Offset `json:"duration"`
	// Rate is how many calls begin in a second, on average.
	Rate float64 `json:"rate"`
	// Pace is how many times as close as usual disruptions and faults come. A file without it has been drawn at 1.
	Pace float64 `json:"pace,omitempty"`
	// Nodes is how many nodes the stage has. A file without it means those of the constant.
	Nodes int `json:"nodes,omitempty"`
	// From is where in the schedule of its seed a part begins; zero for a whole one.
	From        Offset `json:"from,omitempty"`
	Calls       []Call `json:"calls"`
	Disruptions []Step `json:"disruptions"`
	Faults      []Step `json:"faults"`
}

// Options say which schedule to draw.
type Options struct {
	Seed     uint64
	Duration time.Duration
	// Rate is how many calls begin in a second, on average.
	Rate float64
	// Pace is how many times as close as usual disruptions and faults come.
	Pace float64
	// Nodes is how many nodes the stage has.
	Nodes int
	// NoFaults leaves out the faults. Processes then live for the whole run, which shows what they take over time.
	NoFaults bool
}

// Validate reports every mistake at once, each with a value that would work.
func (o Options) Validate() error {
	var errs []error
	if o.Duration < shortest || o.Duration > longest {
		errs = append(errs, fmt.Errorf("duration is %s; use %s to %s, such as 10m", o.Duration, shortest, longest))
	}
	if !(o.Rate >= slowest && o.Rate <= fastest) { // NaN is neither
		errs = append(errs, fmt.Errorf("rate is %g calls a second; use %g to %g, such as 1", o.Rate, slowest, fastest))
	}
	return errors.Join(append(errs, validateStage(o.Pace, o.Nodes)...)...)
}

// validateStage checks what options and schedules have in common.
func validateStage(pace float64, nodes int) (errs []error) {
	if !(pace >= easiest && pace <= hardest) {
		errs = append(errs, fmt.Errorf("pace is %g; use %g to %g, such as 1", pace, easiest, hardest))
	}
	if nodes < Nodes || nodes > mostNodes {
		errs = append(errs, fmt.Errorf("there are %d nodes; use %d to %d, such as 40", nodes, Nodes, mostNodes))
	}
	return errs
}

// Draw draws a schedule. The same options give the same schedule. Calls, disruptions and faults are drawn apart, so the rate
// of calls changes no disruption.
func Draw(o Options) (Schedule, error) {
	if err := o.Validate(); err != nil {
		return Schedule{}, err
	}
	s := Schedule{
		Seed: o.Seed, Duration: Offset(o.Duration), Rate: o.Rate, Pace: o.Pace, Nodes: o.Nodes,
		Calls:       drawCalls(dice{rand.New(rand.NewPCG(o.Seed, 1))}, o),
		Disruptions: drawSteps(dice{rand.New(rand.NewPCG(o.Seed, 2))}, o, leastBetween, between, Disruptions()),
	}
	if !o.NoFaults {
		s.Faults = drawSteps(dice{rand.New(rand.NewPCG(o.Seed, 3))}, o, leastBetweenFault, betweenFault, Faults())
	}
	return s, nil
}

// dice draws what schedules are made of.
type dice struct{ *rand.Rand }

func (d dice) time(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Int64N(int64(most-least)+1)).Truncate(time.Millisecond)
}

func (d dice) number(least, most int) int { return least + d.IntN(most-least+1) }

func (d dice) of(list []string) string { return list[d.IntN(len(list))] }

// drawCalls draws one call for each workload that lasts the whole run, and callers who come at random: seven of ten for
// seconds, two for a minute or so, one for minutes. At more than a call a second, all further calls are brief, so that the
// number of calls at once grows much less than the rate.
func drawCalls(d dice, o Options) []Call {
	var calls []Call
	for _, workload := range Workloads() {
		calls = append(calls, Call{Length: Offset(o.Duration), Workload: workload})
	}
	for at := time.Duration(0); ; {
		at += time.Duration(d.ExpFloat64() / o.Rate * float64(time.Second)).Truncate(time.Millisecond)
		left := o.Duration - at
		if left < leastCall {
			return calls
		}
		var length time.Duration
		switch n := d.IntN(10); {
		case o.Rate > 1 && d.Float64()*o.Rate > 1:
			length = d.time(leastCall, briefCall)
		case n < 7:
			length = d.time(leastCall, 20*time.Second)
		case n < 9:
			length = d.time(20*time.Second, 2*time.Minute)
		default:
			length = d.time(2*time.Minute, 5*time.Minute)
		}
		calls = append(calls, Call{At: Offset(at), Length: Offset(min(length, left)), Workload: d.of(Workloads())})
	}
}

// drawSteps draws steps at about this distance. All kinds come once, in any order, then all once more, and so on. In a short
// run they come closer, down to the least distance, so that each comes; in a shorter one it depends on the seed which come.
func drawSteps(d dice, o Options, least, distance time.Duration, kinds []Kind) []Step {
	window := o.Duration - 2*atEnds
	distance = time.Duration(float64(distance) / o.Pace)
	distance = min(distance, max(least, window/time.Duration(len(kinds))))
	var steps []Step
	var bag []Kind
	for slot := time.Duration(0); slot+distance <= window; slot += distance {
		if len(bag) == 0 {
			bag = slices.Clone(kinds)
			d.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		step := drawStep(d, bag[0]).on(o.Nodes)
		step.At = Offset(atEnds + slot + d.time(0, distance-time.Millisecond))
		steps, bag = append(steps, step), bag[1:]
	}
	return steps
}

// more is how many more replicas each workload has on a larger stage.
func more(nodes int) int { return (nodes - Nodes) / 10 }

// on is the step on a stage of so many nodes: it is drawn for one of the usual size.
func (s Step) on(nodes int) Step {
	s.Node = s.Node * nodes / Nodes
	if s.Replicas > 0 {
		s.Replicas += more(nodes)
	}
	return s
}

func drawStep(d dice, kind Kind) Step {
	s := Step{Kind: kind}
	lasts := func(least, most time.Duration) { s.For = Offset(d.time(least, most)) }
	switch kind {
	case DrainNode:
		s.Node, s.Count = d.IntN(Nodes), 1
	case DrainNodes:
		s.Node, s.Count = d.IntN(Nodes), d.number(2, 3)
	case TakeBack:
		s.Node, s.Count = d.IntN(Nodes), 1
		lasts(2*time.Second, 20*time.Second)
	case RollOut:
		s.Workload = d.of(Workloads())
	case RollOutBad:
		s.Workload = d.of(Workloads())
		lasts(10*time.Second, 20*time.Second)
	case ScaleUp:
		s.Workload, s.Replicas = d.of(ByHand()), d.number(Replicas+1, mostReplicas)
	case ScaleDown:
		s.Workload, s.Replicas = d.of(ByHand()), d.number(leastReplicas, Replicas)
	case DeletePods:
		s.Workload, s.Count, s.Pick = d.of(Workloads()), d.number(1, 4), d.IntN(1000)
	case OptOut:
		s.Workload = d.of(Workloads())
		lasts(3*time.Second, 10*time.Second)
	case EvictAll:
		lasts(5*time.Second, 15*time.Second)
	case KillGate:
		s.Workload, s.Pick = d.of(Gated()), d.IntN(1000)
	case HoldGate:
		s.Workload, s.Pick = d.of(Gated()), d.IntN(1000)
		lasts(3*time.Second, 10*time.Second)
	case FullDisk:
		s.Workload, s.Pick = d.of(Gated()), d.IntN(1000)
		lasts(5*time.Second, 15*time.Second)
	case KillAgent:
		s.Workload, s.Pick = d.of(Workloads()), d.IntN(1000)
	case PauseGuard, HoldAdapter:
		lasts(3*time.Second, 20*time.Second)
	case SlowLiveKit, HoldAPIServer, HoldEtcd:
		lasts(3*time.Second, 10*time.Second)
	case KillAPIServer, KillEtcd:
		lasts(0, 5*time.Second)
	case KillControllers, KillScheduler:
		lasts(0, 10*time.Second)
	case LoseNode, LoseReport:
		s.Node, s.Count = d.IntN(Nodes), 1
		lasts(5*time.Second, 45*time.Second)
	case AlterPolicy, AlterRights, AlterKey:
		s.Pick = d.IntN(1000)
		lasts(2*time.Second, 15*time.Second)
	case AlterBudget, AlterLabels:
		s.Workload, s.Pick = d.of(Workloads()), d.IntN(1000)
		lasts(2*time.Second, 15*time.Second)
	case SlowNetwork, LossyNetwork, CutNetwork:
		return drawNetwork(d, kind)
	case KillGuard, StopGuard, KillAdapter, StopAdapter:
	}
	return s
}

// Tail is the part of a schedule that ends at a moment and is this long: enough to play again what went wrong then. Calls
// under way at its start begin with it, and those under way at its end end with it. Steps before it are not in it, also
// where they last.
func (s Schedule) Tail(end, length Offset) Schedule {
	end = min(end, s.Duration)
	from := max(0, end-length)
	tail := Schedule{Seed: s.Seed, Duration: end - from, Rate: s.Rate, Pace: s.Pace, Nodes: s.Nodes, From: s.From + from}
	for _, c := range s.Calls {
		begin, over := max(c.At, from), min(c.At+c.Length, end)
		if begin < over {
			tail.Calls = append(tail.Calls, Call{At: begin - from, Length: over - begin, Workload: c.Workload})
		}
	}
	part := func(steps []Step) (list []Step) {
		for _, step := range steps {
			if step.At >= from && step.At <= end {
				step.At -= from
				list = append(list, step)
			}
		}
		return list
	}
	tail.Disruptions, tail.Faults = part(s.Disruptions), part(s.Faults)
	return tail
}
