// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"fmt"
	"time"

	"github.com/callguard/callguard/test/lab"
)

// registeredWithin is how long agents may take to find LiveKit again.
const registeredWithin = time.Minute

// troubleOf is what a kind of step does to a link.
func troubleOf(kind Kind) lab.Trouble {
	switch kind {
	case SlowNetwork:
		return lab.Slow
	case LossyNetwork:
		return lab.Lossy
	default:
		return lab.Cut
	}
}

// linkOf is the link that a step is about.
func (p *player) linkOf(s Step) *lab.Link {
	links := p.stage.Links
	switch s.Link {
	case GuardLiveKit:
		return links.GuardLiveKit
	case AdapterLiveKit:
		return links.AdapterLiveKit
	case GuardAPI:
		return links.GuardAPI
	case GuardGates:
		return links.Gates
	case AgentsLiveKit:
		return links.Agents(namespaceOf(s.Workload))
	}
	return nil
}

// network puts connections into trouble for a while. Guards are in one trouble at a time, which is theirs also where it is between them
// and kube-apiserver. Nobody dials a workload while LiveKit cannot offer jobs to it.
func (p *player) network(ctx context.Context, s Step) (string, error) {
	if s.Link == GuardAPI {
		p.guards.fault.Lock()
		defer p.guards.fault.Unlock()
	}
	if s.losesJobs() {
		p.next[s.Workload].Lock()
		defer p.next[s.Workload].Unlock()
		if err := p.nobodyOnTheWay(ctx, s.Workload); err != nil {
			return "", err
		}
	}
	mend, is := p.linkOf(s).Trouble(troubleOf(s.Kind))
	if !is {
		return "", passedOver("its connections are in another trouble")
	}
	p.pause(ctx, s.For)
	mend()
	if s.losesJobs() {
		return string(s.Link), p.registered(ctx, s.Workload)
	}
	return string(s.Link), nil
}

// registered waits until LiveKit knows the agents of a workload again, and gives them calls.
func (p *player) registered(ctx context.Context, workload string) error {
	err := lab.Eventually(ctx, registeredWithin, "agents of "+workload+" are registered", func() (bool, error) {
		for _, a := range p.agents(workload) {
			if !a.Registered && !a.Draining && !a.Closed {
				return false, fmt.Errorf("%s is not", a.Pod.Name)
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return p.firstCall(ctx, workload)
}
