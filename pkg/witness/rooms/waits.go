// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

const (
	// askAgain and askAgainMost are the first and the longest pause until a room with a caller
	// and no agent is looked at again, if it has asked for no agent. An app may ask later.
	askAgain     = 10 * time.Second
	askAgainMost = 5 * time.Minute
	// askShare is the share of the request limit that these looks may take: one in so many.
	askShare = 4
	// asksPerLook is how many requests a look takes: one for who is in the room, one for its
	// dispatches.
	asksPerLook = 2
	// askers is how many rooms are looked at at the same time, because a node that does not
	// answer takes long.
	askers = 4
	// maxWaits is how many rooms of a project are remembered as possibly waiting for an agent.
	maxWaits = 2_000
	// maxWants is how many names of agents are remembered for one room.
	maxWants = 8
	// waitSize is the maximum memory for one room, in bytes.
	waitSize = 2 << 10
)

// waits has the rooms of a project with a caller and no agent. It does no I/O, reads no
// clock and is not safe for concurrent use.
type waits struct {
	rooms map[string]*waiter
	left  int       // rooms that were too many, since the latest sweep
	next  time.Time // when the limit allows the next look
}

// waiter is one room.
type waiter struct {
	since  time.Time // when its caller was first seen without an agent
	seen   bool      // LiveKit's list of participants confirms that; until then it is from a webhook
	turn   bool      // the limit allows its next look
	pause  time.Duration
	asked  time.Time // as of when it is known which agents it asked for; zero if unknown
	wants  []string  // names of agents that it asked for and did not get; each once
	orders int       // how often it has asked for any agent
	err    error     // of the latest look
}

func newWaits() *waits { return &waits{rooms: map[string]*waiter{}} }

// came enters that a caller came into a room of which no agent is known, and reports
// whether it is to be looked at. Who tries a call is no caller: nothing grows for that, and
// nobody is told of it but who tries.
func (w *waits) came(room string, at time.Time) bool {
	if w.rooms[room] != nil || strings.HasPrefix(room, call.TryRoomPrefix) {
		return false
	}
	if len(w.rooms) >= maxWaits {
		w.left++
		return false
	}
	w.rooms[room] = &waiter{since: at}
	return true
}

// read records who is in a room, and reports whether the room has to be looked at from now
// on.
func (w *waits) read(room string, waits bool, at time.Time) (fresh bool) {
	if !waits {
		delete(w.rooms, room)
		return false
	}
	fresh = w.came(room, at)
	if entry := w.rooms[room]; entry != nil {
		entry.seen = true
	}
	return fresh
}

// told records which agents a room asked for, or why that is not known, and returns when to
// look at it again.
func (w *waits) told(room string, dispatches []livekit.Dispatch, err error, at time.Time) time.Duration {
	entry := w.rooms[room]
	if entry == nil {
		return 0
	}
	entry.err = err
	if err == nil {
		entry.asked, entry.wants, entry.orders = at, untaken(dispatches), len(dispatches)
	}
	entry.pause = min(max(2*entry.pause, askAgain), askAgainMost)
	if err == nil && slices.ContainsFunc(entry.wants, isNamed) {
		entry.pause = askAgain // so that the end of the waiting is noticed
	}
	return entry.pause
}

// isNamed reports whether an agent is asked for by name. In each room that names none
// LiveKit asks for any agent, even if only people meet there.
func isNamed(agent string) bool { return agent != "" }

// untaken returns the names of agents that a room asked for and did not get. If a name was
// asked for several times, one agent is enough. A room without a dispatch counts as one
// that asks for any agent, because LiveKit does that by itself.
func untaken(dispatches []livekit.Dispatch) []string {
	if len(dispatches) == 0 {
		return []string{""}
	}
	var wants []string
	for _, d := range dispatches {
		taken := slices.ContainsFunc(dispatches, func(o livekit.Dispatch) bool { return o.AgentName == d.AgentName && o.Taken })
		if !taken && !slices.Contains(wants, d.AgentName) && len(wants) < maxWants {
			wants = append(wants, d.AgentName)
		}
	}
	return wants
}

// turn takes the room's turn within the request limit, or returns how long it has to wait.
// spacing is the time between two looks.
func (w *waits) turn(entry *waiter, spacing time.Duration, now time.Time) time.Duration {
	if entry.turn || spacing == 0 {
		entry.turn = false
		return 0
	}
	at := w.next
	if at.Before(now) {
		at = now
	}
	w.next = at.Add(spacing)
	entry.turn = at.After(now)
	return at.Sub(now)
}

// swept drops the rooms that are not in a list of all rooms, requested at the given time.
func (w *waits) swept(at time.Time, listed func(room string) bool) {
	w.left = 0
	for room, entry := range w.rooms {
		if !listed(room) && entry.since.Before(at) {
			delete(w.rooms, room)
		}
	}
}

// waiting returns the rooms that have waited for longer than after, and how many more may
// wait. A room counts as unknown only after the additional time patience.
func (w *waits) waiting(after, patience, stale time.Duration, now time.Time) call.Waiting {
	said := call.Waiting{Unknown: w.left}
	if w.left > 0 {
		said.Why = fmt.Sprintf("more than %d rooms have a caller and no agent", maxWaits)
	}
	for room, entry := range w.rooms {
		age := now.Sub(entry.since)
		known := !entry.asked.IsZero() && (entry.err == nil || now.Sub(entry.asked) <= stale)
		switch {
		case age < after || !entry.seen && age < after+patience:
		case known:
			if len(entry.wants) > 0 {
				said.Rooms = append(said.Rooms, call.WaitingRoom{Room: room, Since: entry.since, Wants: slices.Clone(entry.wants)})
			}
		case age < after+patience:
		case entry.err != nil:
			said.Unknown, said.Why = said.Unknown+1, entry.err.Error()
		default:
			said.Unknown, said.Why = said.Unknown+1, "they have not been asked yet"
		}
	}
	slices.SortFunc(said.Rooms, func(a, b call.WaitingRoom) int { return a.Since.Compare(b.Since) })
	return said
}

// Waiting returns what is known of the project's callers that no agent has answered.
func (r *Reader) Waiting(now time.Time) (call.Waiting, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.cfg.WaitAfter == 0 {
		return call.Waiting{}, errors.New("LiveKit is not asked which calls wait for an agent")
	}
	if err := r.fresh(now); err != nil {
		return call.Waiting{}, err
	}
	said := r.waits.waiting(r.cfg.WaitAfter, r.cfg.Resync, r.cfg.MaxStaleness, now)
	if n := r.roll.unread(r.cfg.unreadAfter(), now); n > 0 {
		said.Unknown, said.Why = said.Unknown+n, "LiveKit does not say who is in them"
	}
	said.At = r.sweptAt
	return said, nil
}

// noteWait records whether a caller waits in a room that was read. Its agents are already
// in the book. The lock is held.
func (r *Reader) noteWait(room string, in livekit.Room, at time.Time) {
	if r.cfg.WaitAfter == 0 {
		return
	}
	waits := in.Counts.Participants > 0 && !in.AnyAgent && r.book.rooms[room] == nil
	if r.waits.read(room, waits, at) {
		r.looks.AddAfter(room, r.cfg.WaitAfter)
	}
}

// heedCaller records that a caller joined a room. The lock is held.
func (r *Reader) heedCaller(event Event) {
	if r.cfg.WaitAfter > 0 && event.Name == "participant_joined" && !event.Agent && r.book.rooms[event.Room] == nil && r.waits.came(event.Room, time.Now()) {
		r.looks.AddAfter(event.Room, r.cfg.WaitAfter)
	}
}

// lookForEver looks at rooms with a caller and no agent.
func (r *Reader) lookForEver(ctx context.Context) {
	for {
		room, shutdown := r.looks.Get()
		if shutdown {
			return
		}
		if again := r.look(ctx, room); again > 0 {
			r.looks.AddAfter(room, again)
		}
		r.looks.Done(room)
	}
}

// look checks whether a room still has a caller and no agent, and which agents it asked
// for. It returns when to look again.
func (r *Reader) look(ctx context.Context, room string) time.Duration {
	c, err := r.connect(ctx, time.Now())
	if err != nil {
		return askAgain
	}
	r.mu.Lock()
	entry := r.waits.rooms[room]
	if entry == nil {
		r.mu.Unlock()
		return 0
	}
	now := time.Now()
	if pause := r.waits.turn(entry, c.Pace().Evenly(asksPerLook*askShare, now), now); pause > 0 {
		r.mu.Unlock()
		return pause
	}
	r.mu.Unlock()

	err = r.read(ctx, c, room, false)
	var dispatches []livekit.Dispatch
	if err == nil && r.stillWaits(room) {
		dispatches, err = c.Dispatches(ctx, room)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waits.told(room, dispatches, err, now)
}

// stillWaits reports whether a room still has a caller and no agent.
func (r *Reader) stillWaits(room string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.waits.rooms[room] != nil
}

// DispatchAgain asks LiveKit again for the agent of that name that a room asked for and did
// not get, and reports whether it did. It does not ask if an agent has come, the caller has
// left, or somebody else has asked again meanwhile, because then two agents might come.
func (r *Reader) DispatchAgain(ctx context.Context, room, agent string) (bool, error) {
	c, err := r.connect(ctx, time.Now())
	if err != nil {
		return false, err
	}
	if err := r.read(ctx, c, room, false); err != nil {
		return false, err
	}
	r.mu.RLock()
	entry := r.waits.rooms[room]
	known := entry != nil && !entry.asked.IsZero()
	orders := 0
	if known {
		orders = entry.orders
	}
	r.mu.RUnlock()
	if !known {
		return false, nil
	}
	at := time.Now()
	dispatches, err := c.Dispatches(ctx, room)
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	r.waits.told(room, dispatches, nil, at)
	r.mu.Unlock()
	if len(dispatches) != orders || !slices.Contains(untaken(dispatches), agent) {
		return false, nil
	}
	first := livekit.Dispatch{AgentName: agent}
	if i := slices.IndexFunc(dispatches, func(d livekit.Dispatch) bool { return d.AgentName == agent }); i >= 0 {
		first = dispatches[i]
	}
	if err := c.Dispatch(ctx, room, first); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if entry := r.waits.rooms[room]; entry != nil {
		entry.orders++
	}
	r.looks.AddAfter(room, lookAfterDispatch)
	return true, nil
}

// lookAfterDispatch is after which time the room is checked for the agent that was asked
// for again.
const lookAfterDispatch = 2 * time.Second

// Waiting returns what is known of a project's callers that no agent has answered, on its
// present server.
func (p *Projects) Waiting(project call.Project, now time.Time) (call.Waiting, error) {
	r, err := p.reader(project)
	if err != nil {
		return call.Waiting{}, err
	}
	return r.Waiting(now)
}

// DispatchAgain does the same as Reader.DispatchAgain, for a room of a project.
func (p *Projects) DispatchAgain(ctx context.Context, project call.Project, room, agent string) (bool, error) {
	r, err := p.reader(project)
	if err != nil {
		return false, err
	}
	return r.DispatchAgain(ctx, room, agent)
}

// waitsNow returns how many rooms asked for an agent by name and got none, or nil if that
// is not known. The lock is held.
func (r *Reader) waitsNow() *int {
	now := time.Now()
	if r.cfg.WaitAfter == 0 || r.fresh(now) != nil {
		return nil
	}
	said, n := r.waits.waiting(r.cfg.WaitAfter, r.cfg.Resync, r.cfg.MaxStaleness, now), 0
	for _, room := range said.Rooms {
		if slices.ContainsFunc(room.Wants, isNamed) {
			n++
		}
	}
	if n == 0 && said.Unknown > 0 {
		return nil
	}
	return &n
}
