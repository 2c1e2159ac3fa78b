// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Candidate is a pod of an owner that has more than it wants.
type Candidate struct {
	Name string
	// Running says that a container runs that may hold calls.
	Running bool
	// Wanted says that something else wants the pod to go, too.
	Wanted bool
	Ready  bool
	// Known says that Calls is known. An unknown pod may hold any number.
	Known bool
	Calls int
	// Newest is when the latest of its calls began; zero where nobody knows.
	Newest time.Time
}

// Leaver is a pod that goes, and why it and not another.
type Leaver struct{ Name, Why string }

// Leavers chooses the n pods that go: what runs nothing, then what must leave
// anyway, then idle before busy, unready before ready among the idle, fewest
// calls, and of those the one whose latest call has lasted longest. A pod whose
// calls nobody knows goes last.
func Leavers(candidates []Candidate, n int) []Leaver {
	sorted := slices.Clone(candidates)
	slices.SortFunc(sorted, func(a, b Candidate) int {
		return cmp.Or(
			cmp.Compare(a.rank(), b.rank()),
			cmp.Compare(a.Calls, b.Calls),
			compareNewest(a.Newest, b.Newest),
			strings.Compare(a.Name, b.Name),
		)
	})
	var leavers []Leaver
	for _, c := range sorted[:max(0, min(n, len(sorted)))] {
		leavers = append(leavers, Leaver{Name: c.Name, Why: reasons()[c.rank()]})
	}
	return leavers
}

const (
	runsNothing = iota
	wantedAnyway
	idleUnready
	idle
	busy
	unknown
)

func (c Candidate) rank() int {
	switch {
	case !c.Running:
		return runsNothing
	case c.Wanted:
		return wantedAnyway
	case !c.Known:
		return unknown
	case c.Calls > 0:
		return busy
	case !c.Ready:
		return idleUnready
	default:
		return idle
	}
}

func reasons() [6]string {
	return [...]string{
		runsNothing:  "its agent does not run",
		wantedAnyway: "it has to leave anyway",
		idleUnready:  "it is idle and not ready",
		idle:         "it is idle",
		busy:         "it holds the fewest calls",
		unknown:      "the others have to stay",
	}
}

// compareNewest puts the older time first and an unknown one last.
func compareNewest(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	default:
		return a.Compare(b)
	}
}
