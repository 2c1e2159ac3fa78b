// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Candidate is a pod of an owner that has more pods than it wants.
type Candidate struct {
	Name string
	// Node is where it runs.
	Node string
	// Running reports whether a container runs that may hold calls.
	Running bool
	// Wanted reports that something else wants the pod to go, too.
	Wanted bool
	Ready  bool
	// Known reports whether Calls is known. If not, the pod may hold any number.
	Known bool
	Calls int
	// Newest is when the latest of its calls began; zero if that is unknown.
	Newest time.Time
}

// Leaver is a pod that goes, and why it was chosen.
type Leaver struct{ Name, Why string }

// Order is the order in which pods that take calls leave.
type Order string

// The orders.
const (
	// Packed empties nodes: first go pods of the nodes on which the fewest guarded pods stay,
	// busy or not, because pods that are set aside keep their calls.
	Packed Order = "packed"
	// FewestCalls chooses the pods with the fewest calls, on any node.
	FewestCalls Order = "fewest-calls"
)

// Orders lists them.
func Orders() []Order { return []Order{Packed, FewestCalls} }

// Leavers chooses the n pods that go: first pods that run nothing, then those that must
// leave anyway, then those that are idle and not ready. The others follow by the order,
// then idle before busy, then by the fewest calls, then the one whose latest call has
// lasted longest. Pods whose calls are unknown go last. Staying counts, by node, the
// guarded pods that stay there and are not candidates.
func Leavers(order Order, candidates []Candidate, n int, staying map[string]int) []Leaver {
	rest := slices.Clone(candidates)
	slices.SortFunc(rest, func(a, b Candidate) int {
		return cmp.Or(
			cmp.Compare(a.rank(), b.rank()),
			cmp.Compare(a.Calls, b.Calls),
			compareNewest(a.Newest, b.Newest),
			strings.Compare(a.Name, b.Name),
		)
	})
	stay := map[string]int{}
	count := func(node string, n int) {
		if order != FewestCalls { // for which nodes do not matter
			stay[node] += n
		}
	}
	for node, n := range staying {
		count(node, n)
	}
	for _, c := range rest {
		count(c.Node, 1)
	}
	var leavers []Leaver
	for len(leavers) < n && len(rest) > 0 {
		same := 1
		for same < len(rest) && rest[same].tier() == rest[0].tier() {
			same++
		}
		leavers = append(leavers, ofTier(rest[:same], n-len(leavers), stay, count)...)
		rest = rest[same:]
	}
	return leavers
}

// ofTier chooses at most n pods of one tier: by node first, then in the order of the tier.
func ofTier(tier []Candidate, n int, stay map[string]int, count func(node string, n int)) (leavers []Leaver) {
	waiting := map[string][]int{} // by node, the indexes in the tier of the pods that are left
	for i, c := range tier {
		waiting[c.Node] = append(waiting[c.Node], i)
	}
	for len(leavers) < n && len(waiting) > 0 {
		first, most := -1, 0
		for node, places := range waiting {
			if i := places[0]; first < 0 || cmp.Or(cmp.Compare(stay[node], stay[tier[first].Node]), cmp.Compare(i, first)) < 0 {
				first = i
			}
			most = max(most, stay[node])
		}
		c := tier[first]
		why := reasons()[c.rank()]
		if stay[c.Node] < most && c.tier() == idle {
			why = "its node has the fewest guarded pods that stay"
		}
		leavers = append(leavers, Leaver{Name: c.Name, Why: why})
		count(c.Node, -1)
		if waiting[c.Node] = waiting[c.Node][1:]; len(waiting[c.Node]) == 0 {
			delete(waiting, c.Node)
		}
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

// tier is the rank of a pod, except that idle and busy pods, which take calls, share one:
// the order decides among them.
func (c Candidate) tier() int {
	if c.rank() == busy {
		return idle
	}
	return c.rank()
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
