// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/nodeagent"
	"github.com/callguard/callguard/test/trial"
)

// calls is the number of calls in this test: an agent's job process takes a second of CPU
// to start.
const (
	allCalls = 50
	inFlight = 4
)

// TestFiftyCalls runs an unmodified agent behind the gate: 50 calls, with the gate's
// number equal to the server's room list at every step, the drain annotation in the
// middle, and the end.
func TestFiftyCalls(t *testing.T) {
	s := startLiveKit(t)
	port := freePorts(t, 1)[0]
	g := startGate(t, s, port, "--journal="+t.TempDir())
	a := startAgent(t, s, g.agentURL, port, nodeagent.Plain)

	var up []*lksdk.Room
	begin, unanswered := time.Now(), 0
	for i := 0; i < allCalls; i++ {
		if len(up) == inFlight {
			up[0].Disconnect()
			up = up[1:]
			equal(t, s, g)
		}
		room := fmt.Sprintf("fifty-%02d-%d", i, unanswered)
		caller := s.dial(t, room)
		if err := s.answered(t, room); err != nil {
			// On a busy machine, the job's process did not reach LiveKit in time.
			t.Log(err)
			caller.Disconnect()
			i--
			if unanswered++; unanswered > 5 {
				t.Fatal("too many calls were not answered")
			}
			continue
		}
		up = append(up, caller)
		equal(t, s, g)
	}
	t.Logf("%d calls, at most %d at once, took %s; the gate and the server agreed at every step", allCalls, inFlight, time.Since(begin).Round(time.Millisecond))
	for _, p := range s.agents(t) {
		if p.GetAttributes()[call.PodAttribute] != g.uid {
			t.Errorf("agent %s carries pod %q; want %q", p.GetIdentity(), p.GetAttributes()[call.PodAttribute], g.uid)
		}
	}

	// New calls keep coming while the pod gets the annotation.
	stop := make(chan struct{})
	late := make(chan []*lksdk.Room)
	var came atomic.Int64
	go func() {
		var rooms []*lksdk.Room
		defer func() { late <- rooms }()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				room, err := lksdk.ConnectToRoom(s.url, lksdk.ConnectInfo{
					APIKey: s.key, APISecret: s.secret, RoomName: fmt.Sprintf("late-%03d", i), ParticipantIdentity: "caller",
				}, lksdk.NewRoomCallback())
				if err == nil {
					rooms = append(rooms, room)
					came.Add(1)
				}
			}
		}
	}()
	comes := func(more int64) {
		t.Helper()
		want := came.Load() + more
		trial.Within(t, patience, "more calls come", func() error {
			if n := came.Load(); n < want {
				return fmt.Errorf("%d came; want %d", n, want)
			}
			return nil
		})
	}
	comes(3) // before the annotation
	ack := g.order()
	atOrder := g.calls()
	t.Logf("order written → acknowledged: %s; %d calls then", ack.Round(100*time.Microsecond), atOrder.Calls)
	if ack > time.Second {
		t.Errorf("the order took %s; want under 1 s", ack)
	}
	comes(20) // after the annotation
	close(stop)
	rooms := <-late
	t.Logf("%d calls came while the order was given", len(rooms))
	t.Cleanup(func() {
		for _, r := range rooms {
			r.Disconnect()
		}
	})
	if now := g.calls(); now.Running > atOrder.Running+atOrder.Accepted || now.Accepted > atOrder.Accepted {
		t.Errorf("a job was accepted after the order was acknowledged: %+v, then %+v", atOrder, now)
	}
	taken := map[string]bool{}
	for _, j := range atOrder.Jobs {
		taken[j.ID] = true
	}
	for _, j := range g.calls().Jobs {
		if !taken[j.ID] {
			t.Errorf("job %s of room %s was accepted after the order was acknowledged", j.ID, j.Room)
		}
	}
	equal(t, s, g)

	// The calls end one by one; the pod is drained with the last.
	for _, r := range rooms {
		r.Disconnect()
	}
	for _, c := range up[:len(up)-1] {
		c.Disconnect()
	}
	// An agent that came too late for its caller is alone in its room for 10 s.
	trial.Within(t, patience, "one call is left", func() error {
		if a := g.calls(); a.Calls != 1 || a.Drained {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	up[len(up)-1].Disconnect()
	// A call ends when its agent has left the room and, in the pod, when its process has
	// ended: in between, the agent works on after the call. held is when the gate last
	// reported that it is not drained, by its own clock. The test only asks now and then,
	// and asks others too, which is not the gate's delay.
	var left, ended, held, drained time.Time
	trial.Within(t, patience, "the pod is drained", func() error {
		if left.IsZero() && len(s.agents(t)) == 0 {
			left = time.Now()
		}
		if ended.IsZero() && a.jobs(t) == 0 {
			ended = time.Now()
		}
		answer := g.calls()
		if !answer.Drained {
			held = answer.At
			return fmt.Errorf("%+v", answer)
		}
		drained = answer.At
		return nil
	})
	if n := len(s.agents(t)); n != 0 {
		t.Errorf("the pod was reported drained while %d agents were in rooms", n)
	}
	if left.IsZero() {
		left = drained
	}
	if ended.IsZero() {
		ended = drained
	}
	t.Logf("drained %s after the last agent left its room, %s after its process ended",
		drained.Sub(left).Round(time.Millisecond), drained.Sub(ended).Round(time.Millisecond))
	if d := min(held.Sub(left), held.Sub(ended)); d > time.Second {
		t.Errorf("the pod was not drained %s after the last call's end; want within 1 s", d)
	}
	s.dial(t, "too-late")
	for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(50 * time.Millisecond) {
		if a := g.calls(); a.Calls != 0 || !a.Drained {
			t.Fatalf("a call came to a drained pod: %+v", a)
		}
	}
}

// equal waits until the gate and the server's room list have the same number, and returns
// it.
func equal(t *testing.T, s *server, g *sidecar) int {
	t.Helper()
	number := 0
	trial.Within(t, patience, "the gate and the server agree", func() error {
		before, a, after := len(s.agents(t)), g.calls(), len(s.agents(t))
		if before != after || a.Calls != after || a.Accepted != 0 || !a.Known {
			return fmt.Errorf("the server has %d agents in rooms, the gate says %+v", after, a)
		}
		number = after
		return nil
	})
	return number
}
