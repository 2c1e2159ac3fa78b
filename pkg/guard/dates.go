// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// fact is something about an object for which the object itself has no time.
type fact string

const (
	there      fact = "there"       // a pod
	cordoned   fact = "cordoned"    // a node
	tainted    fact = "tainted"     // a node
	noticed    fact = "noticed"     // a node: a condition of it
	isDeleted  fact = "deleted"     // a node
	orphaned   fact = "orphaned"    // a pod
	askedToGo  fact = "asked to go" // a pod
	isMisfit   fact = "misfit"      // a pod
	isWanted   fact = "wanted"      // a pod: it should go
	stands     fact = "stands"      // a pod: the reason for it to go still applies
	isUnready  fact = "unready"     // a pod
	isDraining fact = "draining"    // a pod
	isReleased fact = "released"    // a pod
	hasTooMany fact = "too many"    // an owner of pods
)

// occasion is a fact about one object; for a taint, key is which.
type occasion struct {
	of   types.UID
	fact fact
	key  string
}

// dates remember since when facts hold, as far as this guard has seen, by its own clock,
// because times in objects are from other clocks. A guard that starts or leads again sets
// the times that matter again: they may be too late, but never too early.
type dates struct {
	now func() time.Time
	// synced reports whether everything that existed at the start has been seen. Until then
	// objects arrive in any order.
	synced func() bool

	mu sync.Mutex
	// at has the facts about each object.
	at map[types.UID]map[occasion]sight
}

// sight is when a fact was first seen, and whether facts that were not seen by then are
// known to be later.
type sight struct {
	at      time.Time
	last    time.Time // when it was last seen, for facts that may lapse
	ordered bool
}

func newDates(now func() time.Time) *dates {
	return &dates{now: now, synced: func() bool { return true }, at: map[types.UID]map[occasion]sight{}}
}

// first returns when a fact was first seen, which is now if it was not seen before.
func (d *dates) first(o occasion) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, ok := d.at[o.of][o]
	if !ok {
		seen = sight{at: d.now(), ordered: d.synced()}
		d.enter(o, seen)
	}
	return seen.at
}

// enter stores what was seen. The lock is held.
func (d *dates) enter(o occasion, seen sight) {
	if d.at[o.of] == nil {
		d.at[o.of] = map[occasion]sight{}
	}
	d.at[o.of][o] = seen
}

// set sets the time of a fact to the given one.
func (d *dates) set(o occasion, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.enter(o, sight{at: at})
}

// since returns since when a fact holds; zero if it does not. A fact that returns gets a
// new time.
func (d *dates) since(o occasion, holds bool) time.Time {
	if holds {
		return d.first(o)
	}
	d.forget(o.of, func(kept occasion) bool { return kept == o })
	return time.Time{}
}

// lasting is like first, for a fact that comes and goes: it gets a new time only if it was
// not seen for longer than lapse.
func (d *dates) lasting(o occasion, lapse time.Duration) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	seen, ok := d.at[o.of][o]
	if !ok || now.Sub(seen.last) > lapse {
		seen = sight{at: now, ordered: true}
	}
	seen.last = now
	d.enter(o, seen)
	return seen.at
}

// lapsed reports whether a fact that comes and goes was not seen for longer than lapse, or
// never.
func (d *dates) lapsed(o occasion, lapse time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, ok := d.at[o.of][o]
	return !ok || d.now().Sub(seen.last) > lapse
}

// seenAt returns when a fact was first seen; zero if it was not.
func (d *dates) seenAt(o occasion) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at[o.of][o].at
}

// leads forgets the facts that only a leading guard records, because it has not looked
// since it last led.
func (d *dates) leads() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for of := range d.at {
		d.drop(of, func(o occasion) bool {
			return o.fact != there && !slices.Contains([]fact{cordoned, tainted, noticed, isDeleted}, o.fact)
		})
	}
}

// before reports whether both facts were seen, and the first is known to be earlier than
// the second by more than longer.
func (d *dates) before(first occasion, longer time.Duration, second occasion) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, seen := d.at[first.of][first]
	b, too := d.at[second.of][second]
	return seen && too && b.ordered && a.at.Add(longer).Before(b.at)
}

// forget drops the facts about an object for which gone returns true.
func (d *dates) forget(of types.UID, gone func(occasion) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(of, gone)
}

// drop is forget with the lock held.
func (d *dates) drop(of types.UID, gone func(occasion) bool) {
	maps.DeleteFunc(d.at[of], func(o occasion, _ sight) bool { return gone(o) })
	if len(d.at[of]) == 0 {
		delete(d.at, of)
	}
}
