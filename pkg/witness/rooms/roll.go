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

// roll has the rooms that exist, and as of when it is known who is in each. It does no I/O,
// reads no clock and is not safe for concurrent use.
//
// With hints, a room counts as read while its entry in the list of rooms is the same as
// when the room was read: the entry's number of publishers includes agents, and both of its
// numbers are at most 5 s old. Two changes that cancel each other out, and an agent that
// publishes nothing, are not seen in this way, but each room's turn comes again. An entry
// that becomes equal to what the read has counted is no change. Without hints only a read
// counts.
type roll struct {
	hints bool

	places   map[string]*place
	failed   map[string]*place // the places of rooms that cannot be read
	at       time.Time         // when the latest list was asked for
	nameless int               // rooms in it whose names are too long to ask for them
	size     int64             // memory for the rooms, in bytes
}

// place is one room.
type place struct {
	listed bool // in the latest list
	line   livekit.RoomInfo
	before time.Time // when the list before the first with the room was requested: the room did not exist then

	tried time.Time // when it was last requested; zero if never
	read  time.Time // when the latest successful read began; zero if there was none
	then  livekit.RoomInfo
	// counts are what that read has counted, until the list confirms it.
	counts *livekit.Counts
	err    error     // of the latest try
	since  time.Time // of the first of the tries that have failed since
	known  time.Time // as of when it was known at that try
	dirty  bool      // a webhook has named it since it was last requested
}

func newRoll(hints bool) *roll {
	return &roll{hints: hints, places: map[string]*place{}, failed: map[string]*place{}}
}

// list records a list of all rooms that was requested at the given time. A room that is not
// in it is kept as long as it holds seats.
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

// placeSize returns about how much memory a room takes; its ids are short.
func placeSize(info livekit.RoomInfo) int64 { return 768 + 2*int64(len(info.Name)) }

// name records that a webhook named a room.
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

// asked records the result of a request for a room at the given time: what was counted in
// it, or why that is not known.
func (r *roll) asked(room string, at time.Time, counts livekit.Counts, err error) {
	p := r.places[room]
	if p == nil {
		if err != nil {
			return // a later list will have it, if the room exists
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
	if !at.Before(r.at) { // otherwise the list may be newer than the read
		p.then = p.line
	} else {
		p.borne()
	}
}

// borne drops counts if a list that is newer than the latest read confirms them.
func (p *place) borne() {
	if p.line != p.then && p.counts != nil && p.counts.Borne(p.line) {
		p.then, p.counts = p.line, nil
	}
}

// pending reports whether a room has to be read for the project to be known.
func (r *roll) pending(p *place) bool {
	return p.err == nil && (!r.hints || !p.listed || p.read.IsZero() || p.dirty || p.then != p.line)
}

// todo returns the rooms to read: first those that have to be read, then the others,
// beginning with those that could not be read. In each list the rooms that have waited
// longest come first. At most the given number of rooms without an answer are included,
// because a node that does not answer takes long.
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

// whole returns the time as of which all rooms are known, except those that cannot be read.
// A room counts as unreadable once its tries have failed for the duration patience.
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

// unread returns the number of rooms that could not be read for the duration patience and
// whose entry in the list has changed since they were read: who is in them is not known.
func (r *roll) unread(patience time.Duration, now time.Time) int {
	n := r.nameless
	for _, p := range r.failed {
		if (p.read.IsZero() || p.listed && p.line != p.then) && now.Sub(p.since) >= patience {
			n++
		}
	}
	return n
}

// failing returns as of when a room was last known, and why it could not be read since.
func (r *roll) failing(room string) (sid string, known time.Time, err error) {
	if p := r.places[room]; p != nil && p.err != nil {
		return p.line.SID, p.known, p.err
	}
	return "", time.Time{}, nil
}

// sid returns a room's id, which may be shown, unlike its name.
func (r *roll) sid(room string) string {
	if p := r.places[room]; p != nil {
		return p.line.SID
	}
	return ""
}
