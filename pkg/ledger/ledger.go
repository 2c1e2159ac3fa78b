// SPDX-License-Identifier: Apache-2.0

// Package ledger says how many calls a pod holds: it asks the pod's witnesses for
// their latest readings and merges them by the one rule there is.
//
// It stores nothing and asks nobody outside the process.
package ledger

import (
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// Witness gives its latest reading of a pod from memory.
type Witness interface {
	Reading(pod *call.Pod, now time.Time) call.Reading
}

// Rooms is the witness of room state, which knows whether its projects can be
// believed.
type Rooms interface {
	Witness
	// Fresh returns nil when what is known of a project can be believed.
	Fresh(project call.Project, now time.Time) error
}

// Ledger holds the witnesses.
type Ledger struct {
	rooms  Rooms
	worker Witness
	gate   Witness
}

// New returns a Ledger of these witnesses.
func New(rooms Rooms, worker, gate Witness) *Ledger {
	return &Ledger{rooms: rooms, worker: worker, gate: gate}
}

// Reading is the number of calls that a pod holds, for scaling. A pod without a
// running container holds none: the kubelet says so.
func (l *Ledger) Reading(pod *call.Pod, now time.Time) call.Reading {
	if !pod.Running {
		return call.Known(0, now)
	}
	var merged call.Reading
	for i, w := range pod.Witnesses {
		r := l.Ask(w, pod, now)
		if i == 0 {
			merged = r
			continue
		}
		merged = Merge(merged, r)
	}
	return merged
}

// Ask is the latest reading of one witness.
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

// Fresh returns nil when what is known of a LiveKit project can be believed.
func (l *Ledger) Fresh(project call.Project, now time.Time) error { return l.rooms.Fresh(project, now) }

// Merge is the one rule for scaling: the largest known number, with its time; of
// equal numbers the older time. Unknown is unknown only where both are.
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
