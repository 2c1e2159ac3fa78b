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

// life is how long a call has been seen, by this program's clock. It is zero for a second
// seat of the same pod in a room, which is no call of its own.
type life struct {
	since time.Time
	told  time.Time // until when table has recorded it
	table *lengths.Table
}

type roomEntry struct {
	readAt time.Time // when the latest read that was applied began
	seats  []seat
}

// holding is what a pod holds.
type holding struct {
	rooms   map[string]int // seats by room; a call is a room
	missing int            // seats that LiveKit no longer lists
	newest  time.Time      // when the latest of all its agents so far joined
	at      time.Time      // when the latest read that changed it began
}

// book is what is known of one project's rooms. It does no I/O, reads no clock
// and is not safe for concurrent use.
//
// If something disappears from LiveKit's lists, it is not gone yet: rooms and participants
// are missing from one list and are back in the next (livekit#2399, #4316, #4373), and a
// restarted server knows nothing until its agents have come back. So a seat that is not in
// a list is first missing. It is gone if a second list, no sooner than confirm later, does
// not have it either, or at once if a webhook said that this participant left. If many
// seats disappear together, or after an outage, missing seats are in doubt: their pods are
// unknown until the doubt is over.
type book struct {
	confirm time.Duration // from missing to gone
	doubt   time.Duration // the same if many seats disappear together

	rooms   map[string]*roomEntry
	pods    map[types.UID]*holding
	seats   int
	missing int
	size    int64 // memory for seats and pods, in bytes

	unattributed int
	doubtUntil   time.Time

	// lengths returns the table that learns the lengths of a pod's calls, or nil; it is nil
	// itself if nothing is learned. swept reports that all rooms were read once.
	lengths func(types.UID) *lengths.Table
	swept   bool
}

func newBook(confirm, doubt time.Duration) *book {
	return &book{confirm: confirm, doubt: doubt, rooms: map[string]*roomEntry{}, pods: map[types.UID]*holding{}}
}

// change is what a read of a room has changed.
type change struct {
	pods    []types.UID // whose calls changed
	missing bool        // a seat of the room is missing: read it again after confirm
	much    bool        // with it, many seats are missing together: the doubt begins with the answer
}

// apply records a list of the agents of a room that was requested at the given time. left
// reports whether a webhook said that a participant left. While a sweep runs, and after
// one that failed, nothing counts as gone, because only a complete sweep shows how much
// disappeared together. A list that was requested before the latest one is ignored.
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
	var goesOn map[types.UID]life // created only if needed: most rooms have one agent, which stays
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
			// A webhook said so, or its pod's agent is in the room again under a new sid.
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
			b.lived(&s, s.missing, s.missing.After(b.doubtUntil)) // otherwise it may have been lost
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
		a.Identity = "" // not used, and may be long
		kept = append(kept, seat{Agent: a})
		has[a.SID] = true
		b.count(room, a, at, 1, 0)
		c.pods = append(c.pods, a.Pod)
	}
	tried := strings.HasPrefix(room, call.TryRoomPrefix) // a test call: its length says nothing about real calls
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

// seatSize returns about how much memory a seat takes with its room, and holdingSize a pod,
// in bytes.
func seatSize(a livekit.Agent) int64 { return 512 + int64(len(a.SID)+len(a.Pod)) }

func holdingSize(pod types.UID) int64 { return 512 + int64(len(pod)) }

// growth returns how many more bytes a list of the agents of a room would take at most.
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

// outageOver records that LiveKit answers again, since the given time, after an outage.
// What it has lost is in doubt.
func (b *book) outageOver(at time.Time) { b.doubtUntil = at.Add(b.doubt) }

// lostMuch reports whether more than half of all seats are missing, and at least three,
// because a few calls may happen to end together.
func (b *book) lostMuch() bool { return muchOf(b.missing, b.seats) }

func muchOf(some, all int) bool { return some >= 3 && 2*some > all }

func (b *book) drop(room string, s seat, at time.Time) {
	missing := 0
	if !s.missing.IsZero() {
		missing = -1
	}
	b.count(room, s.Agent, at, -1, missing)
}

// count updates the sums of a pod.
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

// sweptSince forgets the pods for which a sweep that began at the given time found no
// rooms. Until then they are kept, because of the time at which they lost their last room.
func (b *book) sweptSince(at time.Time) {
	b.learn(at)
	for uid, h := range b.pods {
		if len(h.rooms) == 0 && h.at.Before(at) {
			delete(b.pods, uid)
			b.size -= holdingSize(uid)
		}
	}
}

// reading returns what the book knows about a pod. sweptAt is the time at which all rooms
// were known.
func (b *book) reading(h *holding, sweptAt, now time.Time) call.Reading {
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

// names reports whether the pod of an agent in a room is known.
func (b *book) names(room, sid string) bool {
	entry := b.rooms[room]
	return entry != nil && slices.ContainsFunc(entry.seats, func(s seat) bool { return s.SID == sid && s.Pod != "" && s.missing.IsZero() })
}

func (e *roomEntry) hasMissing() bool {
	return slices.ContainsFunc(e.seats, func(s seat) bool { return !s.missing.IsZero() })
}

// lived records in the table until when a call was seen, and whether it was over then.
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

// learn records for all calls that they were on at the given time. Calls that the first
// sweep found began earlier. Their ages are taken from LiveKit's times relative to the call
// that joined last, because LiveKit's clock is compared with no other. So each call is at
// least as old as recorded.
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

// ages returns the minimum ages of the calls of a pod.
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
