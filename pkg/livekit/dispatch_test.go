// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	protocol "github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/testing/protocmp"
)

// withJob is a dispatch with the progress of its job.
func withJob(name string, state *protocol.JobState) *protocol.AgentDispatch {
	d := &protocol.AgentDispatch{Id: "AD_1", AgentName: name, Room: "+1555", State: &protocol.AgentDispatchState{CreatedAt: 1}}
	if state != nil {
		d.State.Jobs = []*protocol.Job{{Id: "AJ_1", Room: &protocol.Room{Name: "+1555"}, AgentName: name, State: state}}
	}
	return d
}

// TestDispatches reads messages that LiveKit's own code wrote.
func TestDispatches(t *testing.T) {
	t.Parallel()
	deleted := withJob("gone", nil)
	deleted.State.DeletedAt = 2
	for name, tc := range map[string]struct {
		reason string
		said   []*protocol.AgentDispatch
		closed bool
		want   []Dispatch
	}{
		"None":      {reason: "A room may have requested no agent."},
		"Closed":    {reason: "A closed room waits for no agent.", closed: true},
		"Untaken":   {reason: "No worker was there.", said: []*protocol.AgentDispatch{withJob("desk", nil)}, want: []Dispatch{{AgentName: "desk"}}},
		"Nameless":  {reason: "LiveKit's own dispatch, for any agent without a name.", said: []*protocol.AgentDispatch{withJob("", nil)}, want: []Dispatch{{}}},
		"Running":   {reason: "An agent has it.", said: []*protocol.AgentDispatch{withJob("desk", &protocol.JobState{Status: protocol.JobStatus_JS_RUNNING})}, want: []Dispatch{{AgentName: "desk", Taken: true}}},
		"Over":      {reason: "An agent had it.", said: []*protocol.AgentDispatch{withJob("desk", &protocol.JobState{Status: protocol.JobStatus_JS_SUCCESS})}, want: []Dispatch{{AgentName: "desk", Taken: true}}},
		"Failed":    {reason: "An agent had it, and failed: another pod would change nothing.", said: []*protocol.AgentDispatch{withJob("desk", &protocol.JobState{Status: protocol.JobStatus_JS_FAILED})}, want: []Dispatch{{AgentName: "desk", Taken: true}}},
		"Assigned":  {reason: "A worker has said yes.", said: []*protocol.AgentDispatch{withJob("desk", &protocol.JobState{ParticipantIdentity: "agent-1"})}, want: []Dispatch{{AgentName: "desk", Taken: true}}},
		"Pending":   {reason: "A job that no worker has is no agent.", said: []*protocol.AgentDispatch{withJob("desk", &protocol.JobState{Status: protocol.JobStatus_JS_PENDING})}, want: []Dispatch{{AgentName: "desk"}}},
		"Cancelled": {reason: "Nor is one that was given up.", said: []*protocol.AgentDispatch{withJob("desk", &protocol.JobState{Status: protocol.JobStatus_JS_CANCELLED})}, want: []Dispatch{{AgentName: "desk"}}},
		"Deleted":   {reason: "It is not asked for any more.", said: []*protocol.AgentDispatch{deleted, withJob("desk", nil)}, want: []Dispatch{{AgentName: "desk"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			if !tc.closed {
				f.rooms["+1555"] = []*protocol.ParticipantInfo{}
			}
			f.dispatches = map[string][]*protocol.AgentDispatch{"+1555": tc.said}
			got, err := clientOf(t, f, nil).Dispatches(t.Context(), "+1555")
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Dispatch{})); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got)\n%s", tc.reason, err, diff)
			}
		})
	}
}

// TestDispatchAgain: the new dispatch repeats every field of the first, and one that was cut off is not dispatched.
func TestDispatchAgain(t *testing.T) {
	t.Parallel()
	first := withJob("desk", nil)
	first.Metadata, first.Deployment, first.ThreadId = `{"caller":"+1555"}`, "blue", "AT_1"
	first.RestartPolicy, first.Attributes = protocol.JobRestartPolicy_JRP_NEVER, map[string]string{"lang": "de"}
	long := withJob("desk", nil)
	long.Metadata = strings.Repeat("x", maxOrder+1)

	f := newFake()
	f.rooms["+1555"] = []*protocol.ParticipantInfo{}
	f.dispatches = map[string][]*protocol.AgentDispatch{"+1555": {first, long}}
	c := clientOf(t, f, nil)
	said, err := c.Dispatches(t.Context(), "+1555")
	if err != nil || len(said) != 2 {
		t.Fatalf("%d dispatches, %v", len(said), err)
	}
	if err := c.Dispatch(t.Context(), "+1555", said[0]); err != nil {
		t.Fatal(err)
	}
	if err := c.Dispatch(t.Context(), "+1555", said[1]); err == nil || strings.Contains(err.Error(), "xxx") {
		t.Errorf("a dispatch that is too long gives %v; want an error without its content", err)
	}
	want := []*protocol.CreateAgentDispatchRequest{{
		AgentName: "desk", Room: "+1555", Metadata: first.Metadata, Deployment: "blue", ThreadId: "AT_1",
		RestartPolicy: protocol.JobRestartPolicy_JRP_NEVER, Attributes: first.Attributes,
	}}
	if diff := cmp.Diff(want, f.created, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestDispatchesOfTheLong: a name that no pod can have is not mistaken for another, and is not dispatched again.
func TestDispatchesOfTheLong(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.rooms["+1555"] = []*protocol.ParticipantInfo{}
	f.dispatches = map[string][]*protocol.AgentDispatch{"+1555": {withJob(strings.Repeat("n", 129), nil)}}
	c := clientOf(t, f, nil)
	got, err := c.Dispatches(t.Context(), "+1555")
	if err != nil || len(got) != 1 || got[0].AgentName != strings.Repeat("n", 128)+"…" {
		t.Fatalf("got %v, %v", got, err)
	}
	if err := c.Dispatch(t.Context(), "+1555", got[0]); err == nil || len(f.created) > 0 {
		t.Errorf("it is dispatched again: %v", err)
	}
}
