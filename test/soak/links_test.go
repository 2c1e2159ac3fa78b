// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"testing"
	"time"
)

func TestEveryLinkIsInEachTrouble(t *testing.T) {
	t.Parallel()
	drawn := map[Kind]map[Link]bool{}
	for seed := range uint64(10) {
		for _, s := range draw(t, seed, time.Hour).Faults {
			if drawn[s.Kind] == nil {
				drawn[s.Kind] = map[Link]bool{}
			}
			drawn[s.Kind][s.Link] = true
		}
	}
	for _, kind := range networkFaults() {
		for _, link := range Links() {
			if !drawn[kind][link] {
				t.Errorf("in ten hours there are no %s between %s", kind, link)
			}
		}
	}
}

func TestWhereNobodyDials(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason string
		step   Step
		want   bool
	}{
		"AgentsCut":   {reason: "An offer does not arrive, and is made once.", step: Step{Kind: CutNetwork, Link: AgentsLiveKit, Workload: Node}, want: true},
		"AgentsLossy": {reason: "So with a connection that breaks.", step: Step{Kind: LossyNetwork, Link: AgentsLiveKit, Workload: Node}, want: true},
		"AgentsSlow":  {reason: "An answer comes within the 3 s that LiveKit waits.", step: Step{Kind: SlowNetwork, Link: AgentsLiveKit, Workload: Node}},
		"GuardCut":    {reason: "No job passes drain-guard.", step: Step{Kind: CutNetwork, Link: GuardLiveKit}},
		"GatesCut":    {reason: "No job passes the status of a gate.", step: Step{Kind: CutNetwork, Link: GuardGates}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.step.losesJobs(); got != tc.want {
				t.Errorf("%s Jobs are lost: %t; want %t", tc.reason, got, tc.want)
			}
		})
	}
}
