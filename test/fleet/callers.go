// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	protologger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
)

const defaultAnswerWithin = 20 * time.Second

// ErrUnanswered means that no agent joined a caller's room in time.
var ErrUnanswered = errors.New("no agent answered; check that a worker is registered and below its load")

// DialOptions describe the caller. The zero value is a STANDARD participant who waits 20 s for an agent.
type DialOptions struct {
	// Identity is "caller-<room>" when empty.
	Identity string
	// Kind is lksdk.ParticipantStandard or lksdk.ParticipantSIP.
	Kind lksdk.ParticipantKind
	// AgentName requests the agents of this name, which get no other calls. If empty, any agent without a name
	// answers.
	AgentName string
	// AnswerWithin is how long the caller waits for an agent.
	AnswerWithin time.Duration
	// Speaks has the caller publish an audio track, without sound. LiveKit tells the others at once of whoever publishes, and up to
	// 3 s later of whoever does not.
	Speaks bool
}

// Callers dials calls into one project and accounts for them.
type Callers struct {
	fleet   *Fleet
	project Project
	sdkLog  protologger.Logger
	unwatch func()

	mu     sync.Mutex
	up     map[string]*Call // by room
	rooms  int              // named by nextRoom
	report Report
}

// Report counts calls. Up counts those that are dialling or in progress; the others, except Dialled and
// Answered, count ended calls.
type Report struct {
	Dialled, Answered, Unanswered, Completed, Up int
	// Interrupted counts calls whose agent or caller was away for less than 30 s and came back.
	Interrupted int
	// Dropped lists the calls that ended before their callers hung up.
	Dropped []Loss
}

// NewCallers creates callers for a project whose agents are in fleet. Close it after the last call.
func NewCallers(fleet *Fleet, project Project) *Callers {
	c := &Callers{fleet: fleet, project: project, sdkLog: sdkLogger(fleet.cfg.Log), up: map[string]*Call{}}
	c.unwatch = fleet.losses.watch(c.told)
	return c
}

// Close hangs up every call that is left.
func (cs *Callers) Close() {
	cs.unwatch()
	cs.mu.Lock()
	calls := make([]*Call, 0, len(cs.up))
	for _, c := range cs.up {
		calls = append(calls, c)
	}
	cs.mu.Unlock()
	hangUpAll(calls)
}

func hangUpAll(calls []*Call) {
	var all sync.WaitGroup
	for _, c := range calls {
		all.Go(c.HangUp)
	}
	all.Wait()
}

// Dial joins room and returns once an agent is there. The call lasts until HangUp, or until it is dropped. An
// unanswered call is hung up; its error wraps ErrUnanswered.
func (cs *Callers) Dial(ctx context.Context, room string, o DialOptions) (*Call, error) {
	if o.Identity == "" {
		o.Identity = "caller-" + room
	}
	if o.AnswerWithin == 0 {
		o.AnswerWithin = defaultAnswerWithin
	}
	c := &Call{
		Room: room, Identity: o.Identity, project: cs.project, roster: newRoster(cs.project, room), losses: cs.fleet.losses,
		settled: cs.settled, now: time.Now, changed: make(chan struct{}), done: make(chan struct{}),
		agents: map[string]string{}, killed: map[string]Loss{},
	}
	if err := cs.register(c); err != nil {
		return nil, err
	}
	token, err := cs.token(room, o)
	if err == nil {
		c.lkRoom, err = join(ctx, c.roster, cs.project.URL, token, cs.sdkLog)
	}
	if err != nil {
		c.look(func(o *observation) { o.GaveUp = true })
		return nil, fmt.Errorf("caller cannot join room %q at %s: %w; check that LiveKit listens there", room, cs.project.URL, err)
	}
	c.stopped.Go(c.follow)
	if o.Speaks {
		if err := speak(c.lkRoom); err != nil {
			c.HangUp()
			return nil, fmt.Errorf("caller cannot speak in room %q at %s: %w", room, cs.project.URL, err)
		}
	}
	if err := c.answer(ctx, o.AnswerWithin); err != nil {
		c.stopped.Wait()
		return nil, err
	}
	return c, nil
}

// token creates a caller's token, and requests its agent.
func (cs *Callers) token(room string, o DialOptions) (string, error) {
	t := auth.NewAccessToken(cs.project.APIKey, cs.project.APISecret).
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: room}).
		SetIdentity(o.Identity).SetKind(livekit.ParticipantInfo_Kind(o.Kind))
	if o.AgentName != "" {
		t.SetAgents(&livekit.RoomAgentDispatch{AgentName: o.AgentName})
	}
	return t.ToJWT()
}

func (cs *Callers) register(c *Call) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.up[c.Room] != nil {
		return fmt.Errorf("room %q has a call already; use a room of its own for every call", c.Room)
	}
	cs.up[c.Room] = c
	cs.report.Dialled++
	return nil
}

// nextRoom numbers the rooms of plans.
func (cs *Callers) nextRoom() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.rooms++
	return cs.rooms
}

// settled moves an ended call into the report. The call's lock is held.
func (cs *Callers) settled(c *Call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.up, c.Room)
	if !c.state.AnsweredAt.IsZero() {
		cs.report.Answered++
	}
	if c.state.Interrupted {
		cs.report.Interrupted++
	}
	switch c.state.Phase {
	case dialling, answered, away: // not over
	case completed:
		cs.report.Completed++
	case unanswered:
		cs.report.Unanswered++
	case dropped:
		cs.report.Dropped = append(cs.report.Dropped, c.lossLocked())
	}
}

// told passes a loss that the fleet reports on to its call.
func (cs *Callers) told(l Loss) {
	cs.mu.Lock()
	c := cs.up[l.Room]
	cs.mu.Unlock()
	if c != nil && l.project == cs.project.URL {
		c.told(l)
	}
}

// Report counts the calls so far.
func (cs *Callers) Report() Report {
	cs.mu.Lock()
	r := cs.report
	r.Dropped = slices.Clone(r.Dropped)
	calls := make([]*Call, 0, len(cs.up))
	for _, c := range cs.up {
		calls = append(calls, c)
	}
	cs.mu.Unlock()
	r.Up = len(calls)
	for _, c := range calls {
		c.mu.Lock()
		if !c.state.AnsweredAt.IsZero() {
			r.Answered++
		}
		if c.state.Interrupted {
			r.Interrupted++
		}
		c.mu.Unlock()
	}
	return r
}
