// SPDX-License-Identifier: Apache-2.0

package rooms

import "time"

const (
	// rarest is the least that a sweep reads again of the rooms of which nothing is said:
	// one in so many.
	rarest = 16
	// tellsWithin is how long after a change its webhook may come.
	tellsWithin = 5 * time.Second
)

// rarity is how many rooms of which nothing is said a sweep reads again: all, until
// webhooks have told of a change, and then, sweep by sweep, half as many, for as long as
// they have told of every change that a sweep finds. It is not safe for concurrent use.
type rarity struct {
	told   bool
	part   int                  // one in so many
	untold map[string]time.Time // rooms in which a sweep found a change, and when
}

func newRarity() *rarity { return &rarity{part: 1, untold: map[string]time.Time{}} }

// tells enters that a webhook told of a room.
func (r *rarity) tells(room string) {
	r.told = true
	delete(r.untold, room)
}

// finds enters that a sweep found a change in a room of which no webhook had told.
func (r *rarity) finds(room string, at time.Time) { r.untold[room] = at }

// next is how many of so many rooms the sweep that begins now is to read again.
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
