// SPDX-License-Identifier: Apache-2.0

package call

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTakers: for which agents of a project a waiting call counts.
func TestTakers(t *testing.T) {
	t.Parallel()
	desk, sales, nameless, every := Demand{AgentName: "desk"}, Demand{AgentName: "sales"}, Demand{}, Demand{EveryRoom: true}
	for name, tc := range map[string]struct {
		reason  string
		wants   []string
		demands []Demand
		want    []bool
	}{
		"ByName":     {reason: "Only workloads with that name take the call.", wants: []string{"desk"}, demands: []Demand{desk, sales, nameless, every, desk}, want: []bool{true, false, false, false, true}},
		"NobodySays": {reason: "Then the name may belong to any workload that gives none.", wants: []string{"front"}, demands: []Demand{desk, nameless, every}, want: []bool{false, true, true}},
		"AnyAgent":   {reason: "LiveKit asks for any agent in rooms of people, too.", wants: []string{""}, demands: []Demand{desk, nameless}, want: []bool{false, false}},
		"EveryRoom":  {reason: "A workload whose annotation says that every room wants an agent takes it.", wants: []string{""}, demands: []Demand{desk, nameless, every}, want: []bool{false, false, true}},
		"NamedEvery": {reason: "An agent with a name is sent to no room that names none.", wants: []string{""}, demands: []Demand{{AgentName: "desk", EveryRoom: true}}, want: []bool{false}},
		"Two":        {reason: "Either of two agents is missing.", wants: []string{"desk", "sales"}, demands: []Demand{desk, sales, nameless}, want: []bool{true, true, false}},
		"Nobody":     {reason: "All have come.", demands: []Demand{desk, every}, want: []bool{false, false}},
	} {
		if diff := cmp.Diff(tc.want, WaitingRoom{Wants: tc.wants}.Takers(tc.demands)); diff != "" {
			t.Errorf("%s: %s (-want +got)\n%s", name, tc.reason, diff)
		}
	}
}

// TestDemandOf: a value that cannot be read has its default, which dispatches nothing and counts no room of
// people.
func TestDemandOf(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        Demand
	}{
		"Nothing": {want: Demand{Project: DefaultProject}},
		"All": {annotations: map[string]string{SecretAnnotation: "livekit", AgentNameAnnotation: "desk", WaitingRoomsAnnotation: "every", DispatchAgainAnnotation: "true"},
			want: Demand{Project: "voice/livekit", AgentName: "desk", EveryRoom: true, Again: true}},
		"Named": {annotations: map[string]string{WaitingRoomsAnnotation: "named", DispatchAgainAnnotation: "false"}, want: Demand{Project: DefaultProject}},
		"Wrong": {annotations: map[string]string{AgentNameAnnotation: strings.Repeat("x", 129), WaitingRoomsAnnotation: "all", DispatchAgainAnnotation: "yes"}, want: Demand{Project: DefaultProject}},
	} {
		if diff := cmp.Diff(tc.want, DemandOf("voice", tc.annotations)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}
