// SPDX-License-Identifier: Apache-2.0

package witness

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// disbelief is after how long calls that LiveKit alone lists no longer count: for that
	// time the pod's gate or agent must have known of no call, and LiveKit must have listed no
	// new one. A LiveKit that was killed leaves its agents in Redis forever.
	disbelief = 5 * time.Minute
	// gap is the maximum time between two looks at a pod for the contradiction to count as
	// uninterrupted.
	gap = 2 * time.Minute
)

// contradiction is since when one pod's witnesses have contradicted each other.
type contradiction struct {
	since, last time.Time
	calls       int       // that LiveKit lists
	newest      time.Time // when the latest of its agents joined, by LiveKit's clock
	told        bool
}

// look records what LiveKit and another witness say about a pod, and reports whether
// LiveKit is no longer believed. The time starts again after an unknown number, a call that
// both know, a new call, or a gap without looks.
func (c *contradiction) look(rooms, other call.Reading, now time.Time) bool {
	if !contradict(rooms, other) {
		*c = contradiction{}
		return false
	}
	n, _ := rooms.Calls()
	if c.since.IsZero() || now.Sub(c.last) > gap || n > c.calls || !rooms.Newest().Equal(c.newest) {
		*c = contradiction{since: now}
	}
	c.last, c.calls, c.newest = now, n, rooms.Newest()
	return now.Sub(c.since) >= disbelief
}

// contradict reports whether LiveKit lists calls of which another witness knows none.
func contradict(rooms, other call.Reading) bool {
	n, known := rooms.Calls()
	zero, knowsZero := other.Calls()
	return known && knowsZero && n > 0 && zero == 0
}

// doubts has the contradictions of all pods. Its methods are safe for concurrent use.
type doubts struct {
	mu   sync.Mutex
	pods map[types.UID]*contradiction
	// forgot is when pods that are gone were last dropped.
	forgot time.Time
	// tell is called once with a pod, when LiveKit is no longer believed about it.
	tell func(*call.Pod)
}

func newDoubts(tell func(*call.Pod)) *doubts {
	return &doubts{pods: map[types.UID]*contradiction{}, tell: tell}
}

// forget drops pods that are gone, only now and then, because each of thousands of pods
// would check all of them.
func (d *doubts) forget(now time.Time) {
	if now.Sub(d.forgot) <= gap {
		return
	}
	d.forgot = now
	maps.DeleteFunc(d.pods, func(_ types.UID, old *contradiction) bool { return now.Sub(old.last) > gap })
}

// weigh returns what LiveKit says about a pod, or zero if that is not believed, and how
// many of its calls are not believed.
func (d *doubts) weigh(pod *call.Pod, rooms, other call.Reading, now time.Time) (call.Reading, int) {
	d.mu.Lock()
	c := d.pods[pod.UID]
	if c == nil {
		if !contradict(rooms, other) {
			d.mu.Unlock()
			return rooms, 0
		}
		d.forget(now)
		c = &contradiction{}
		d.pods[pod.UID] = c
	}
	disbelieved := c.look(rooms, other, now)
	if c.since.IsZero() {
		delete(d.pods, pod.UID)
	}
	first := disbelieved && !c.told
	c.told = c.told || disbelieved
	d.mu.Unlock()
	if !disbelieved {
		return rooms, 0
	}
	if first {
		d.tell(pod)
	}
	n, _ := rooms.Calls()
	return call.Known(0, rooms.At()), n
}
