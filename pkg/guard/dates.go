// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
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
	isDraining fact = "draining"    // a pod
	isReleased fact = "released"    // a pod
	hasTooMany fact = "too many"    // an owner of pods
)

// occasion is a fact about one object. Of a taint, key says which.
type occasion struct {
	of   types.UID
	fact fact
	key  string
}

// dates remember since when facts hold, as far as this guard has seen.
type dates struct {
	now func() time.Time

	mu sync.Mutex
	at map[occasion]time.Time
}

func newDates(now func() time.Time) *dates { return &dates{now: now, at: map[occasion]time.Time{}} }

// first is when a fact was first seen, which is now unless it was before.
func (d *dates) first(o occasion) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, seen := d.at[o]
	if !seen {
		at = d.now()
		d.at[o] = at
	}
	return at
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

// before says whether both facts were seen, the first before the second.
func (d *dates) before(first, second occasion) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, seen := d.at[first]
	return seen && at.Before(d.at[second])
}

// forget drops the facts that gone says hold no more.
func (d *dates) forget(gone func(occasion) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.at, func(o occasion, _ time.Time) bool { return gone(o) })
}
