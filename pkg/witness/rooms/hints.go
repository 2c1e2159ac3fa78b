// SPDX-License-Identifier: Apache-2.0

package rooms

import "time"

const (
	// hintLife is how long a webhook's statement counts, and hintRetry how soon a room is read
	// again if its list does not confirm it yet.
	hintLife  = 10 * time.Second
	hintRetry = 200 * time.Millisecond
	// maxHints is how many webhook statements are kept for a project, and maxHintBytes how
	// many bytes of names. Beyond that, rooms are still read at once.
	maxHints     = 10_000
	maxHintBytes = 1 << 20
	// maxHinted is the maximum length of a room's name and a participant's id that are kept.
	maxHinted = 1 << 10
)

// hint is what a webhook said about an agent's participant.
type hint struct {
	left  bool
	until time.Time
}

// hints has the hints of a project, by room and participant sid. It is not safe for
// concurrent use.
type hints struct {
	of   map[string]map[string]hint
	n    int
	size int // bytes
}

func newHints() *hints { return &hints{of: map[string]map[string]hint{}} }

func (h *hints) put(room, sid string, said hint) {
	if _, there := h.of[room][sid]; !there {
		if h.n >= maxHints || h.size+len(room)+len(sid) > maxHintBytes {
			return
		}
		h.n++
		h.size += len(room) + len(sid)
	}
	if h.of[room] == nil {
		h.of[room] = map[string]hint{}
	}
	h.of[room][sid] = said
}

func (h *hints) drop(room, sid string) {
	h.n--
	h.size -= len(room) + len(sid)
	if delete(h.of[room], sid); len(h.of[room]) == 0 {
		delete(h.of, room)
	}
}

// left reports whether a webhook said that a participant left a room.
func (h *hints) left(room, sid string) bool { return h.of[room][sid].left }

// unmet reports whether the list of a room does not confirm yet what webhooks said about
// it. Confirmed hints are dropped.
func (h *hints) unmet(room string, listed map[string]bool, now time.Time) (unmet bool) {
	for sid, said := range h.of[room] {
		switch {
		case listed[sid] != said.left:
			h.drop(room, sid)
		case now.Before(said.until):
			unmet = true
		}
	}
	return unmet
}

// dropOld drops hints that no longer count.
func (h *hints) dropOld(now time.Time) {
	for room, said := range h.of {
		for sid, s := range said {
			if now.After(s.until) {
				h.drop(room, sid)
			}
		}
	}
}
