// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/livekit"
)

// seat is an agent's place in a room.
type seat struct {
	livekit.Agent

	missing time.Time // since when LiveKit no longer lists it; zero while it does
	life    life
}

// life is how long a call has been seen, by this program's clock. It is zero for a further
// seat of the same pod in a room, which is no call of its own.
type life struct {
	since time.Time
	told  time.Time // until when table knows it
	table *lengths.Table
}

type roomEntry struct {
	readAt time.Time // when the latest read that counted began
	seats  []seat
}

// holding is what a pod holds.
type holding struct {
	rooms   map[string]int // seats by room; a call is a room
	missing int            // seats that LiveKit no longer lists
	newest  time.Time      // when the agent joined that did so last, of all it ever had
	at      time.Time      // when the latest read that changed it began
}

// book is what is known of one project's rooms. It does no I/O, reads no clock
// and is not safe for concurrent use.
//
// LiveKit's lists are not to be taken at their word when something is gone from
// them: rooms and participants go missing from one list and stand in the next
// (livekit#2399, #4316, #4373), and a restarted server knows nothing until its
// agents have come back. So a seat that is gone from a list is missing first. It
// is gone when a second list, no sooner than confirm later, does not have it
// either, or at once when a webhook said that this very participant left. And
// when much is lost together, or after an outage, missing seats are in doubt:
// their pods are unknown until the doubt is over.
type book struct {
	confirm time.Duration // from missing to gone
	doubt   time.Duration // the same when much is lost together

	rooms   map[string]*roomEntry
	pods    map[types.UID]*holding
	seats   int
	missing int
	size    int64 // what seats and pods take, in bytes

	unattributed int
	doubtUntil   time.Time

	// lengths returns where the lengths of a pod's calls are learnt, or nil; it is nil where
	// nobody learns. swept says that all rooms were read once.
	lengths func(types.UID) *lengths.Table
	swept   bool
}

func newBook(confirm, doubt time.Duration) *book {
	return &book{confirm: confirm, doubt: doubt, rooms: map[string]*roomEntry{}, pods: map[types.UID]*holding{}}
}

// change is what a read of a room brought.
type change struct {
	pods    []types.UID // whose calls changed
	missing bool        // a seat of the room is missing: read it again after confirm
	much    bool        // with it, much is lost together: the doubt is to last from the answer on
}

// apply enters a list of the agents of a room that was asked for at the time
// given. left says of a participant's sid whether a webhook said it left. While
// a sweep runs, and after one that failed, nothing is taken for gone, since only
// the end of a whole one shows how much was lost together. A list that was asked
// for before the latest one is passed over.
func (b *book) apply(room string, agents []livekit.Agent, at time.Time, open bool, left func(sid string) bool) change {
	entry := b.rooms[room]
	switch {
	case entry == nil && len(agents) == 0:
		return change{}
	case entry == nil:
		entry = &roomEntry{}
		b.rooms[room] = entry
	case !at.After(entry.readAt):
		return change{missing: entry.hasMissing()}
	}
	entry.readAt = at

	listed, back := make(map[string]bool, len(agents)), make(map[types.UID]bool, len(agents))
	for _, a := range agents {
		listed[a.SID] = true
		back[a.Pod] = a.Pod != ""
	}
	var c change
	kept := make([]seat, 0, len(agents))
	var goesOn map[types.UID]life // made where it is needed: most rooms have one agent, who stays
	counted := make(map[types.UID]bool, 1)
	has := make(map[string]bool, len(agents))
	for _, s := range entry.seats {
		switch {
		case listed[s.SID] && !s.missing.IsZero():
			s.missing = time.Time{}
			b.count(room, s.Agent, at, 0, -1)
			c.pods = append(c.pods, s.Pod)
		case listed[s.SID]:
		case left(s.SID) || back[s.Pod]:
			// It said so, or its pod's agent is in the room again under a new sid.
			b.drop(room, s, at)
			c.pods = append(c.pods, s.Pod)
			if !back[s.Pod] {
				b.lived(&s, at, true)
			} else if !s.life.since.IsZero() {
				if goesOn == nil {
					goesOn = map[types.UID]life{}
				}
				goesOn[s.Pod] = s.life
			}
			continue
		case s.missing.IsZero():
			s.missing = at
			b.count(room, s.Agent, at, 0, 1)
			if b.lostMuch() {
				c.much = true
				b.doubtUntil = at.Add(b.doubt)
			}
		case !open && at.Sub(s.missing) >= b.confirm && !at.Before(b.doubtUntil):
			b.drop(room, s, at)
			c.pods = append(c.pods, s.Pod)
			b.lived(&s, s.missing, s.missing.After(b.doubtUntil)) // else it may have been lost
			continue
		}
		kept = append(kept, s)
		has[s.SID] = true
		counted[s.Pod] = counted[s.Pod] || !s.life.since.IsZero()
	}
	for _, a := range agents {
		if has[a.SID] {
			continue
		}
		a.Identity = "" // which nobody asks for, and may be long
		kept = append(kept, seat{Agent: a})
		has[a.SID] = true
		b.count(room, a, at, 1, 0)
		c.pods = append(c.pods, a.Pod)
	}
	tried := strings.HasPrefix(room, call.TryRoomPrefix) // no caller's: its length says nothing of theirs
	for i := range kept {
		s := &kept[i]
		if l, is := goesOn[s.Pod]; is && !counted[s.Pod] {
			s.life, counted[s.Pod] = l, true
		} else if s.Pod != "" && !counted[s.Pod] && !tried {
			s.life, counted[s.Pod] = life{since: at, told: at}, true
		}
	}
	entry.seats = kept
	c.missing = entry.hasMissing()
	c.pods = slices.DeleteFunc(c.pods, func(uid types.UID) bool { return uid == "" })
	if len(kept) == 0 {
		delete(b.rooms, room)
	}
	return c
}

// seatSize is about what a seat takes with its room, and holdingSize what is kept of a
// pod, in bytes.
func seatSize(a livekit.Agent) int64 { return 512 + int64(len(a.SID)+len(a.Pod)) }

func holdingSize(pod types.UID) int64 { return 512 + int64(len(pod)) }

// growth is how many bytes more a list of the agents of a room would take, at most.
func (b *book) growth(room string, agents []livekit.Agent) (more int64) {
	for _, a := range agents {
		more += seatSize(a)
		if b.pods[a.Pod] == nil {
			more += holdingSize(a.Pod)
		}
	}
	if entry := b.rooms[room]; entry != nil {
		for _, s := range entry.seats {
			more -= seatSize(s.Agent)
		}
	}
	return max(0, more)
}

// outageOver enters that LiveKit answers again, since the time given, after it
// could not be read. What it has lost is in doubt.
func (b *book) outageOver(at time.Time) { b.doubtUntil = at.Add(b.doubt) }

// lostMuch reports whether more than half of all seats are missing, and more than
// a few calls that happened to end together.
func (b *book) lostMuch() bool { return muchOf(b.missing, b.seats) }

func muchOf(some, all int) bool { return some >= 3 && 2*some > all }

func (b *book) drop(room string, s seat, at time.Time) {
	missing := 0
	if !s.missing.IsZero() {
		missing = -1
	}
	b.count(room, s.Agent, at, -1, missing)
}

// count keeps the sums by pod.
func (b *book) count(room string, a livekit.Agent, at time.Time, seats, missing int) {
	b.seats += seats
	b.size += int64(seats) * seatSize(a)
	b.missing += missing
	if a.Pod == "" {
		b.unattributed += seats
		return
	}
	h := b.pods[a.Pod]
	if h == nil {
		h = &holding{rooms: map[string]int{}}
		b.pods[a.Pod] = h
		b.size += holdingSize(a.Pod)
	}
	h.at = at
	if a.Joined.After(h.newest) {
		h.newest = a.Joined
	}
	h.missing += missing
	h.rooms[room] += seats
	if h.rooms[room] == 0 {
		delete(h.rooms, room)
	}
}

// sweptSince forgets the pods that a sweep begun at the time given found without
// rooms. Until then they are kept for the time at which they lost their last.
func (b *book) sweptSince(at time.Time) {
	b.learn(at)
	for uid, h := range b.pods {
		if len(h.rooms) == 0 && h.at.Before(at) {
			delete(b.pods, uid)
			b.size -= holdingSize(uid)
		}
	}
}

// reading is what the book says of a pod, given as of when all rooms are known.
func (b *book) reading(pod types.UID, sweptAt, now time.Time) call.Reading {
	h := b.pods[pod]
	switch {
	case h == nil:
		return call.Known(0, sweptAt)
	case h.missing > 0 && now.Before(b.doubtUntil):
		return call.Unknown("LiveKit stopped listing rooms of this pod; waiting to see whether its agents reconnect")
	case h.at.After(sweptAt):
		return call.Known(len(h.rooms), h.at).WithNewest(h.newest)
	default:
		return call.Known(len(h.rooms), sweptAt).WithNewest(h.newest)
	}
}

// names reports whether it is known which pod an agent in a room is of.
func (b *book) names(room, sid string) bool {
	entry := b.rooms[room]
	return entry != nil && slices.ContainsFunc(entry.seats, func(s seat) bool { return s.SID == sid && s.Pod != "" && s.missing.IsZero() })
}

func (e *roomEntry) hasMissing() bool {
	return slices.ContainsFunc(e.seats, func(s seat) bool { return !s.missing.IsZero() })
}

// lived tells until when a call was seen, and whether it was over then.
func (b *book) lived(s *seat, until time.Time, over bool) {
	if b.lengths == nil || !b.swept || s.life.since.IsZero() || until.Before(s.life.told) {
		return
	}
	if s.life.table == nil {
		s.life.table = b.lengths(s.Pod)
	}
	if s.life.table != nil {
		s.life.table.Add(s.life.told.Sub(s.life.since), until.Sub(s.life.since), over)
		s.life.told = until
	}
}

// learn tells of all calls that they were on at a time. Those that the first sweep found
// were on before: they are as much older than the one that joined last as LiveKit says, for
// its clock is compared with no other. So each is at least as old as it is taken for.
func (b *book) learn(at time.Time) {
	if b.lengths == nil {
		return
	}
	if !b.swept {
		var newest time.Time
		for _, entry := range b.rooms {
			for _, s := range entry.seats {
				newest = later(newest, s.Joined)
			}
		}
		for _, entry := range b.rooms {
			for i := range entry.seats {
				if s := &entry.seats[i]; !s.life.since.IsZero() && !s.Joined.IsZero() {
					s.life.since = s.life.since.Add(-newest.Sub(s.Joined))
				}
			}
		}
		b.swept = true
	}
	for _, entry := range b.rooms {
		for i := range entry.seats {
			if s := &entry.seats[i]; s.missing.IsZero() {
				b.lived(s, at, false)
			}
		}
	}
}

// ages are how old the calls of a pod are, at least.
func (b *book) ages(pod types.UID, now time.Time) (ages []time.Duration) {
	h := b.pods[pod]
	if h == nil || !b.swept {
		return nil
	}
	for room := range h.rooms {
		for _, s := range b.rooms[room].seats {
			if s.Pod == pod && !s.life.since.IsZero() {
				ages = append(ages, max(0, now.Sub(s.life.since)))
			}
		}
	}
	return ages
}
