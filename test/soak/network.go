// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"slices"
	"time"
)

// Steps that put the connections between two parties into trouble.
const (
	SlowNetwork  Kind = "slow connections"
	LossyNetwork Kind = "lossy connections"
	CutNetwork   Kind = "connections cut"
)

// Link is between whom the connections of a step are.
type Link string

// The links of a run.
const (
	GuardLiveKit   Link = "drain-guard and LiveKit"
	AdapterLiveKit Link = "metrics-adapter and LiveKit"
	GuardAPI       Link = "drain-guard and kube-apiserver"
	GuardGates     Link = "drain-guard and gates" // and metrics-adapter
	// AgentsLiveKit are the connections on which LiveKit offers jobs to the agents of a workload, or to their gates.
	AgentsLiveKit Link = "agents and LiveKit"
)

// Links lists them.
func Links() []Link {
	return []Link{GuardLiveKit, AdapterLiveKit, GuardAPI, GuardGates, AgentsLiveKit}
}

func networkFaults() []Kind { return []Kind{SlowNetwork, LossyNetwork, CutNetwork} }

// drawNetwork draws whose connections are in trouble, and for how long.
func drawNetwork(d dice, kind Kind) Step {
	s := Step{Kind: kind, Link: Links()[d.IntN(len(Links()))], For: Offset(d.time(5*time.Second, 20*time.Second))}
	if s.Link == AgentsLiveKit {
		s.Workload = d.of(Workloads())
	}
	return s
}

// validateLink reports whether a step that is about connections says whose, and any other nothing of them.
func (s Step) validateLink() error {
	if slices.Contains(networkFaults(), s.Kind) != slices.Contains(Links(), s.Link) {
		return fmt.Errorf("the link of a %q is %q; use one of %q where it is about connections, else leave it out", s.Kind, s.Link, Links())
	}
	return nil
}

// losesJobs reports whether LiveKit loses the jobs that it offers meanwhile: it offers a job once, and to nobody else when the offer is
// not answered within 3 s. With slow connections it is.
func (s Step) losesJobs() bool { return s.Link == AgentsLiveKit && s.Kind != SlowNetwork }
