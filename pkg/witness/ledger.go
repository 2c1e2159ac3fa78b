// SPDX-License-Identifier: Apache-2.0

// Package witness answers how many calls a pod holds: it takes the latest readings of the
// pod's witnesses from memory and merges them by one rule, Merge.
//
// It makes no requests, and stores only since when witnesses contradict each other.
package witness

import (
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// Witness gives its latest reading of a pod from memory.
type Witness interface {
	Reading(pod *call.Pod, now time.Time) call.Reading
}

// Rooms is the witness that reads LiveKit's rooms. It knows whether what it has read of a
// project is recent enough.
type Rooms interface {
	Witness
	// Fresh returns nil if what is known of a project can be believed.
	Fresh(project call.Project, now time.Time) error
}

// Ledger holds the witnesses.
type Ledger struct {
	rooms  Rooms
	worker Witness
	gate   Witness
	doubts *doubts
}

// New returns a Ledger of these witnesses. disbelieved is called once with a pod whose
// calls that LiveKit alone lists no longer count.
func New(rooms Rooms, worker, gate Witness, disbelieved func(*call.Pod)) *Ledger {
	return &Ledger{rooms: rooms, worker: worker, gate: gate, doubts: newDoubts(disbelieved)}
}

// Reading returns the number of calls that a pod holds, for scaling. A pod without a
// running container holds none.
func (l *Ledger) Reading(pod *call.Pod, now time.Time) call.Reading {
	reading, _ := l.weigh(pod, now)
	return reading
}

// weigh returns the same as Reading, and how many calls that LiveKit lists do not count.
func (l *Ledger) weigh(pod *call.Pod, now time.Time) (call.Reading, int) {
	if !pod.Running {
		return call.Known(0, now), 0
	}
	var rooms, other call.Reading
	asksOther := false
	for _, w := range pod.Witnesses {
		switch r := l.Ask(w, pod, now); {
		case w == call.Rooms:
			rooms = r
		case asksOther:
			other = Merge(other, r)
		default:
			other, asksOther = r, true
		}
	}
	switch {
	case !pod.Asks(call.Rooms):
		return other, 0
	case !asksOther:
		return rooms, 0
	}
	rooms, disbelieved := l.doubts.weigh(pod, rooms, other, now)
	return Merge(rooms, other), disbelieved
}

// Ask returns the latest reading of one witness.
func (l *Ledger) Ask(w call.Witness, pod *call.Pod, now time.Time) call.Reading {
	switch w {
	case call.Rooms:
		return l.rooms.Reading(pod, now)
	case call.Worker:
		return l.worker.Reading(pod, now)
	case call.Gate:
		return l.gate.Reading(pod, now)
	default:
		return call.Unknown("there is no witness %q", w)
	}
}

// Fresh returns nil if what is known of a LiveKit project can be believed.
func (l *Ledger) Fresh(project call.Project, now time.Time) error { return l.rooms.Fresh(project, now) }

// Merge is the rule for scaling: the largest known number, with its time; for equal numbers
// the older time. The result is unknown only if both are.
func Merge(a, b call.Reading) call.Reading {
	x, knownA := a.Calls()
	y, knownB := b.Calls()
	switch {
	case !knownA && !knownB:
		return call.Unknown("%s", strings.Join([]string{a.Reason(), b.Reason()}, "; "))
	case !knownA:
		return b
	case !knownB:
		return a
	case x > y || x == y && a.At().Before(b.At()):
		return a
	default:
		return b
	}
}
