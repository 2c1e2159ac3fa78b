// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCallState(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	present := observation{At: at(1), Agent: agentPresent}
	tests := map[string]struct {
		reason string
		seen   []observation
		want   callState
	}{
		"Completed": {
			reason: "A caller who hangs up on an agent completes the call.",
			seen:   []observation{{At: at(0), Agent: agentAbsent}, present, {At: at(9), Agent: agentPresent, HungUp: true}},
			want:   callState{Phase: completed, AnsweredAt: at(1), EndedAt: at(9)},
		},
		"Unanswered": {
			reason: "A call without an agent is unanswered when its caller gives up.",
			seen:   []observation{{At: at(0), Agent: agentAbsent}, {At: at(20), Agent: agentAbsent, GaveUp: true}},
			want:   callState{Phase: unanswered, EndedAt: at(20)},
		},
		"LostWhileDialling": {
			reason: "A call whose agent died before it came was never answered, so it is not dropped.",
			seen:   []observation{{At: at(1), Agent: agentAbsent, Lost: CauseCrash}, {At: at(20), Agent: agentAbsent, GaveUp: true}},
			want:   callState{Phase: unanswered, EndedAt: at(20)},
		},
		"AnsweredInTheLastMoment": {
			reason: "An agent who is there when patience ends has answered.",
			seen:   []observation{{At: at(20), Agent: agentPresent, GaveUp: true}},
			want:   callState{Phase: answered, AnsweredAt: at(20)},
		},
		"Killed": {
			reason: "A call that the fleet ends is dropped at once, with its cause.",
			seen:   []observation{present, {At: at(5), Agent: agentAbsent, Lost: CauseGrace}},
			want:   callState{Phase: dropped, AnsweredAt: at(1), EndedAt: at(5), Cause: CauseGrace},
		},
		"KilledThenHungUp": {
			reason: "Hanging up on a dead agent does not complete the call.",
			seen:   []observation{present, {At: at(5), Agent: agentAbsent, Lost: CauseForced, HungUp: true}},
			want:   callState{Phase: dropped, AnsweredAt: at(1), EndedAt: at(5), Cause: CauseForced},
		},
		"KilledBesideAnother": {
			reason: "A second agent in the room carries the call on.",
			seen:   []observation{present, {At: at(5), Agent: agentPresent, Lost: CauseCrash}, {At: at(9), Agent: agentPresent, Lost: CauseCrash, HungUp: true}},
			want:   callState{Phase: completed, AnsweredAt: at(1), EndedAt: at(9)},
		},
		"Interrupted": {
			reason: "An agent who is back in time interrupts the call, but it is not dropped.",
			seen:   []observation{present, {At: at(5), Agent: agentAbsent}, {At: at(34), Agent: agentPresent}},
			want:   callState{Phase: answered, AnsweredAt: at(1), Interrupted: true},
		},
		"InterruptedTwice": {
			reason: "Patience starts again each time.",
			seen: []observation{
				present, {At: at(5), Agent: agentAbsent}, {At: at(30), Agent: agentPresent},
				{At: at(31), Agent: agentAbsent}, {At: at(60), Agent: agentPresent},
			},
			want: callState{Phase: answered, AnsweredAt: at(1), Interrupted: true},
		},
		"AgentStaysAway": {
			reason: "A call is lost from when its agent was missed, not from when patience ended.",
			seen:   []observation{present, {At: at(5), Agent: agentAbsent}, {At: at(35), Agent: agentAbsent}},
			want: callState{
				Phase: dropped, AnsweredAt: at(1), AwaySince: at(5), EndedAt: at(5),
				Cause: CauseAgentLeft, Detail: "the agent did not come back",
			},
		},
		"LiveKitStaysAway": {
			reason: "A caller who cannot reach LiveKit for that long has lost the call to LiveKit.",
			seen:   []observation{present, {At: at(5)}, {At: at(35)}},
			want: callState{
				Phase: dropped, AnsweredAt: at(1), AwaySince: at(5), EndedAt: at(5), Blind: true,
				Cause: CauseLiveKit, Detail: "the caller's connection did not come back",
			},
		},
		"BackWithoutAgent": {
			reason: "A caller who comes back, and finds no agent for the rest of the patience, has lost the call to LiveKit.",
			seen:   []observation{present, {At: at(5)}, {At: at(15), Agent: agentAbsent}, {At: at(35), Agent: agentAbsent}},
			want: callState{
				Phase: dropped, AnsweredAt: at(1), AwaySince: at(5), EndedAt: at(5), Blind: true,
				Cause: CauseLiveKit, Detail: "the caller's connection came back, the agent did not",
			},
		},
		"AgentSaidGoodbye": {
			reason: "An agent who leaves on purpose is not waited for.",
			seen:   []observation{present, {At: at(5), Agent: agentAbsent, Left: "CLIENT_INITIATED"}},
			want: callState{
				Phase: dropped, AnsweredAt: at(1), EndedAt: at(5), Cause: CauseAgentLeft, Detail: "CLIENT_INITIATED",
			},
		},
		"CutOff": {
			reason: "A caller whom LiveKit disconnects for good has lost the call.",
			seen:   []observation{present, {At: at(5), Cut: "ROOM_DELETED"}},
			want:   callState{Phase: dropped, AnsweredAt: at(1), EndedAt: at(5), Cause: CauseLiveKit, Detail: "ROOM_DELETED"},
		},
		"HungUpOnSilence": {
			reason: "A caller who hangs up while the agent is gone had no agent any more.",
			seen:   []observation{present, {At: at(5), Agent: agentAbsent}, {At: at(6), Agent: agentAbsent, HungUp: true}},
			want: callState{
				Phase: dropped, AnsweredAt: at(1), AwaySince: at(5), EndedAt: at(6),
				Cause: CauseAgentLeft, Detail: "the agent was gone when the caller hung up",
			},
		},
		"HungUpWhileLiveKitIsAway": {
			reason: "It cannot be known, and nobody was cut off: completed, with an interruption.",
			seen:   []observation{present, {At: at(5)}, {At: at(6), HungUp: true}},
			want:   callState{Phase: completed, AnsweredAt: at(1), AwaySince: at(5), Blind: true, EndedAt: at(6), Interrupted: true},
		},
		"HungUpBeforeTheAgentIsBack": {
			reason: "After a restart of LiveKit the agent may come back later than the caller: no drop either.",
			seen:   []observation{present, {At: at(5)}, {At: at(8), Agent: agentAbsent}, {At: at(9), Agent: agentAbsent, HungUp: true}},
			want:   callState{Phase: completed, AnsweredAt: at(1), AwaySince: at(5), Blind: true, EndedAt: at(9), Interrupted: true},
		},
		"OverIsOver": {
			reason: "Observations after the end change nothing.",
			seen:   []observation{present, {At: at(9), Agent: agentPresent, HungUp: true}, {At: at(10), Agent: agentAbsent, Lost: CauseCrash}},
			want:   callState{Phase: completed, AnsweredAt: at(1), EndedAt: at(9)},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got callState
			for _, o := range tc.seen {
				got = got.next(o)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
