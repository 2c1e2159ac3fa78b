// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// fact is something about an object that carries no time of its own.
type fact string

const (
	there      fact = "there"       // a pod
	cordoned   fact = "cordoned"    // a node
	tainted    fact = "tainted"     // a node
	orphaned   fact = "orphaned"    // a pod
	askedToGo  fact = "asked to go" // a pod
	isMisfit   fact = "misfit"      // a pod
	isWanted   fact = "wanted"      // a pod: it should go
	stands     fact = "stands"      // a pod: what wants it to go still does
	isUnready  fact = "unready"     // a pod
	isDraining fact = "draining"    // a pod
	isReleased fact = "released"    // a pod
	hasTooMany fact = "too many"    // an owner of pods
	renewed    fact = "renewed"     // a node's lease
)

// occasion is a fact about one object. Of a taint, key says which.
type occasion struct {
	of   types.UID
	fact fact
	key  string
}

// dates remember since when facts hold, as far as this guard has seen, by its own clock.
// What objects say of themselves is by the clocks of others. A guard that starts dates
// everything anew: too late, and never too early.
type dates struct {
	now func() time.Time
	// settled says that all that was there at the start has been seen. What is seen
	// before is seen in any order.
	settled func() bool

	mu sync.Mutex
	at map[occasion]sight
}

// sight is when a fact was first seen, and whether others that were not seen then are
// known to have come later.
type sight struct {
	at      time.Time
	ordered bool
}

func newDates(now func() time.Time) *dates {
	return &dates{now: now, settled: func() bool { return true }, at: map[occasion]sight{}}
}

// first is when a fact was first seen, which is now unless it was before.
func (d *dates) first(o occasion) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, ok := d.at[o]
	if !ok {
		seen = sight{at: d.now(), ordered: d.settled()}
		d.at[o] = seen
	}
	return seen.at
}

// set dates a fact by what is said of it.
func (d *dates) set(o occasion, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at[o] = sight{at: at}
}

// since is when a fact was first seen to hold; zero while it does not. One that
// comes again is dated anew.
func (d *dates) since(o occasion, holds bool) time.Time {
	if holds {
		return d.first(o)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.at, o)
	return time.Time{}
}

// before reports whether both facts were seen, and the first is known to have come before
// the second.
func (d *dates) before(first, second occasion) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, seen := d.at[first]
	b, too := d.at[second]
	return seen && too && b.ordered && a.at.Before(b.at)
}

// forget drops the facts that gone says hold no more.
func (d *dates) forget(gone func(occasion) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.at, func(o occasion, _ sight) bool { return gone(o) })
}

// leaseOf is what is remembered of a node's lease: when it was first seen to have been
// renewed at a time that the node says.
func leaseOf(node, renewal string) occasion {
	return occasion{of: types.UID("lease of " + node), fact: renewed, key: renewal}
}

// forgetLease drops what is remembered of a node's lease, but for these.
func (d *dates) forgetLease(node string, but ...occasion) {
	d.forget(func(o occasion) bool { return o.of == leaseOf(node, "").of && !slices.Contains(but, o) })
}
