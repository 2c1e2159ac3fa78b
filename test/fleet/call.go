// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
)

// Call is one caller in one room.
type Call struct {
	Room     string
	Identity string

	project Project
	roster  *roster
	losses  *losses
	// settled is called once, when the call is over.
	settled func(*Call)
	now     func() time.Time

	changed chan struct{} // closed and replaced whenever the state changes
	done    chan struct{}
	stopped sync.WaitGroup

	mu     sync.Mutex
	state  callState
	lkRoom *lksdk.Room
	agents map[string]string // identity → pod UID, of every agent seen
	killed map[string]Loss   // identity → what the fleet knows
	lost   Loss
}

// HangUp ends the call. It may be called repeatedly, and after a drop.
func (c *Call) HangUp() {
	c.look(func(o *observation) { o.HungUp = true })
	c.stopped.Wait()
}

// Done is closed when the call is over, for whatever reason.
func (c *Call) Done() <-chan struct{} { return c.done }

// Dropped reports whether the call was lost, and how.
func (c *Call) Dropped() (Loss, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lossLocked(), c.state.Phase == dropped
}

// follow keeps the account until the call is over, then leaves the room.
func (c *Call) follow() {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	ctx, cancel := context.WithCancel(context.Background()) // ends with the call
	defer cancel()
	for {
		c.roster.refresh(ctx)
		c.look(nil)
		select {
		case <-c.done:
			c.lkRoom.Disconnect()
			return
		case <-c.roster.poke:
		case <-again.C:
		}
	}
}

// look makes an observation, adds what the caller passes, and accounts for it.
func (c *Call) look(add func(*observation)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Phase.over() {
		return
	}
	o := c.observeLocked()
	if add != nil {
		add(&o)
	}
	was := c.state.Phase
	c.state = c.state.next(o)
	if c.state.Phase != was {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	if c.state.Phase.over() {
		close(c.done)
		c.settled(c)
	}
}

// observeLocked observes the room and what the fleet reported.
func (c *Call) observeLocked() observation {
	o := observation{At: c.now()}
	members, link := c.roster.members()
	switch link {
	case linkAway, linkUnsure: // these say nothing about the agent
	case linkCut:
		o.Cut = c.roster.cutReason()
	case linkUp:
		o.Agent = agentAbsent
		for _, m := range members {
			if _, dead := c.killed[m.identity]; m.kind == lksdk.ParticipantAgent && !dead && !c.losses.isJoining(m.identity) {
				o.Agent = agentPresent
				c.agents[m.identity] = m.pod
				c.roster.forget(m.identity)
			}
		}
	}
	for identity := range c.agents {
		if reason, ok := c.roster.farewell(identity); ok && deliberate(reason) {
			o.Left = fmt.Sprint(reason)
		}
	}
	for _, l := range c.killed {
		o.Lost = l.Cause
		c.lost = l
	}
	return o
}

// told records what the fleet knows about the end of an agent in this room.
func (c *Call) told(l Loss) {
	c.mu.Lock()
	c.killed[l.Agent] = l
	c.mu.Unlock()
	c.look(nil)
}

// lossLocked combines the account with what the fleet knows about who held the call.
func (c *Call) lossLocked() Loss {
	if c.state.Cause == "" {
		return Loss{}
	}
	l := c.lost
	if l.Cause != c.state.Cause {
		h := c.losses.holder(c.project.URL, c.Room)
		l = Loss{Pod: h.pod, UID: h.uid, Node: h.node}
	}
	l.Room, l.Cause, l.At, l.project = c.Room, c.state.Cause, c.state.EndedAt, c.project.URL
	if c.state.Detail != "" {
		l.Detail = c.state.Detail
	}
	return l
}

// answer waits until an agent is in the room or the call is over.
func (c *Call) answer(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		c.mu.Lock()
		phase, changed, detail := c.state.Phase, c.changed, c.state.Detail
		c.mu.Unlock()
		switch phase {
		case dialling:
		case unanswered:
			return fmt.Errorf("call in room %q: %w %s", c.Room, ErrUnanswered, detail)
		default:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.look(func(o *observation) { o.GaveUp = true })
		}
	}
}
