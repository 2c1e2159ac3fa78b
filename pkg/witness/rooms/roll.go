// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/livekit"
)

// roll is which rooms there are and as of when it is known who is in each. It does no
// I/O, reads no clock and is not safe for concurrent use.
//
// With hints, a room counts as read when the list of rooms says of it what it said when
// the room was read: its number of publishers counts agents, and both of its numbers
// are at most 5 s old. Two changes that make up for each other, and an agent that
// publishes nothing, are not seen so; that room's turn comes again all the same. Nor has a
// room changed when the list comes to say what the read has counted.
// Without hints only a read counts.
type roll struct {
	hints bool

	places   map[string]*place
	failed   map[string]*place // those of them that cannot be read
	at       time.Time         // when the latest list was asked for
	nameless int               // rooms of it whose names are too long to ask for them
	size     int64             // what the rooms take, in bytes
}

// place is one room.
type place struct {
	listed bool // in the latest list
	line   livekit.RoomInfo
	before time.Time // of the list before the first that had it: then there was no such room

	tried time.Time // when it was asked for last; zero if never
	read  time.Time // when the latest read that worked began; zero if none did
	then  livekit.RoomInfo
	// counts are what that read has counted, until the list says so.
	counts *livekit.Counts
	err    error     // of the latest try
	since  time.Time // of the first try of those that failed since
	known  time.Time // as of when it was known at that try
	dirty  bool      // a webhook named it since it was asked for
}

func newRoll(hints bool) *roll {
	return &roll{hints: hints, places: map[string]*place{}, failed: map[string]*place{}}
}

// list enters a list of all rooms that was asked for at the time given. A room that is
// gone from it is kept for as long as it holds seats.
func (r *roll) list(rooms []livekit.RoomInfo, at time.Time, holds func(room string) bool) {
	for _, p := range r.places {
		p.listed = false
	}
	r.nameless = 0
	for _, info := range rooms {
		if info.Name == "" {
			r.nameless++
			continue
		}
		p := r.places[info.Name]
		if p == nil {
			p = &place{before: r.at}
			r.places[info.Name] = p
			r.size += placeSize(info)
		}
		p.listed, p.line = true, info
		p.borne()
	}
	for name, p := range r.places {
		if !p.listed && !holds(name) {
			delete(r.places, name)
			delete(r.failed, name)
			r.size -= placeSize(livekit.RoomInfo{Name: name})
		}
	}
	r.at = at
}

// placeSize is about what a room takes, in bytes; its ids are short.
func placeSize(info livekit.RoomInfo) int64 { return 768 + 2*int64(len(info.Name)) }

// name enters that a webhook named a room.
func (r *roll) name(room string) {
	if p := r.places[room]; p != nil {
		p.dirty = true
	}
}

// isNamed reports whether a webhook has named a room since it was read.
func (r *roll) isNamed(room string) bool {
	p := r.places[room]
	return p != nil && p.dirty
}

// asked enters what came of asking for a room at the time given: what was counted in it, or
// why that is not known.
func (r *roll) asked(room string, at time.Time, counts livekit.Counts, err error) {
	p := r.places[room]
	if p == nil {
		if err != nil {
			return // a list will have it, if there is such a room
		}
		p = &place{before: at}
		r.places[room] = p
		r.size += placeSize(livekit.RoomInfo{Name: room})
	}
	if at.Before(p.tried) {
		return
	}
	p.tried = at
	if err != nil {
		if p.err == nil {
			p.since, p.known = at, p.read
			if r.hints && !r.pending(p) && r.at.After(p.read) {
				p.known = r.at
			}
		}
		p.err, r.failed[room] = err, p
		return
	}
	delete(r.failed, room)
	p.read, p.err, p.dirty, p.counts = at, nil, false, &counts
	if !at.Before(r.at) { // else the list may know of something later
		p.then = p.line
	} else {
		p.borne()
	}
}

// borne enters that a list of after the latest read says what that has counted, if it does.
func (p *place) borne() {
	if p.line != p.then && p.counts != nil && p.counts.Borne(p.line) {
		p.then, p.counts = p.line, nil
	}
}

// pending reports whether a room has to be read for the project to be known.
func (r *roll) pending(p *place) bool {
	return p.err == nil && (!r.hints || !p.listed || p.read.IsZero() || p.dirty || p.then != p.line)
}

// todo returns the rooms to be read: those that have to be, and then the others, which
// begin with those that could not be read. Each has those first that have waited longest.
// No more than so many of those that nobody answered for are among them: a silent node
// takes its time.
func (r *roll) todo(silent int) (must, others []string) {
	var failed, unanswered, rest []string
	for name, p := range r.places {
		switch {
		case livekit.Unanswered(p.err) || errors.Is(p.err, context.DeadlineExceeded):
			unanswered = append(unanswered, name)
		case p.err != nil:
			failed = append(failed, name)
		case r.pending(p):
			must = append(must, name)
		default:
			rest = append(rest, name)
		}
	}
	longest := func(a, b string) int {
		if c := r.places[a].tried.Compare(r.places[b].tried); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	}
	slices.SortFunc(unanswered, longest)
	rest = append(rest, unanswered[:min(len(unanswered), silent)]...)
	for _, names := range [][]string{must, failed, rest} {
		slices.SortFunc(names, longest)
	}
	return must, append(failed, rest...)
}

// whole is the time as of which all rooms are known, but for those that cannot be read:
// a room counts as one of these from patience after the first try that failed on.
func (r *roll) whole(patience time.Duration, now time.Time) time.Time {
	whole := r.at
	for _, p := range r.places {
		known := whole
		switch {
		case p.err != nil && now.Sub(p.since) >= patience:
		case p.err != nil && p.read.IsZero():
			known = p.before
		case p.err != nil:
			known = p.read
		case !r.pending(p):
		case p.tried.IsZero():
			known = p.before
		case r.hints && p.tried.Before(r.at):
			known = p.tried
		case !r.hints:
			known = p.tried
		}
		if known.Before(whole) {
			whole = known
		}
	}
	return whole
}

// unread is the number of rooms that could not be read, in spite of patience, since the
// list said last that somebody came or went: who is in them is not known.
func (r *roll) unread(patience time.Duration, now time.Time) int {
	n := r.nameless
	for _, p := range r.failed {
		if (p.read.IsZero() || p.listed && p.line != p.then) && now.Sub(p.since) >= patience {
			n++
		}
	}
	return n
}

// failing returns as of when a room was known last, and why it cannot be read since.
func (r *roll) failing(room string) (sid string, known time.Time, err error) {
	if p := r.places[room]; p != nil && p.err != nil {
		return p.line.SID, p.known, p.err
	}
	return "", time.Time{}, nil
}

// sid is a room's id, by which it can be named in public.
func (r *roll) sid(room string) string {
	if p := r.places[room]; p != nil {
		return p.line.SID
	}
	return ""
}
