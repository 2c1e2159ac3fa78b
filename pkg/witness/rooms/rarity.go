// SPDX-License-Identifier: Apache-2.0

package rooms

import "time"

const (
	// rarest is the minimum share of unmentioned rooms that a sweep reads again: one in so
	// many.
	rarest = 16
	// tellsWithin is the maximum time from a change to its webhook.
	tellsWithin = 5 * time.Second
)

// rarity decides how many unmentioned rooms a sweep reads again: all, until webhooks have
// reported a change. Then the number is halved with each sweep, as long as webhooks have
// reported every change that sweeps find. It is not safe for concurrent use.
type rarity struct {
	told   bool
	part   int                  // one in so many
	untold map[string]time.Time // rooms in which a sweep found a change, and when
}

func newRarity() *rarity { return &rarity{part: 1, untold: map[string]time.Time{}} }

// tells records that a webhook named a room.
func (r *rarity) tells(room string) {
	r.told = true
	delete(r.untold, room)
}

// finds records that a sweep found a change in a room that no webhook had named.
func (r *rarity) finds(room string, at time.Time) { r.untold[room] = at }

// next returns how many of the given number of rooms the sweep that begins now has to read
// again.
func (r *rarity) next(rooms int, now time.Time) int {
	if r.told {
		r.part = min(2*r.part, rarest)
	}
	for room, at := range r.untold {
		if now.Sub(at) > tellsWithin {
			r.told, r.part = false, 1
			delete(r.untold, room)
		}
	}
	return (rooms + r.part - 1) / r.part
}
