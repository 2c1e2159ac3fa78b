// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Cause is why a call ended that should have continued.
type Cause string

// Causes that the fleet knows for certain, because it ended the process itself.
const (
	CauseGrace   Cause = "killed at the end of the termination grace"
	CauseForced  Cause = "pod object deleted while its process ran"
	CauseNode    Cause = "node gone"
	CauseCrash   Cause = "agent process crashed"
	CauseStatus  Cause = "container reported as stopped while its process ran"
	CauseStopped Cause = "fleet stopped"
)

// Causes that the callers observe. The text after them has details.
const (
	CauseLiveKit   Cause = "LiveKit went away"
	CauseAgentLeft Cause = "agent left without cause"
)

// Loss is a call that ended although its caller had not hung up.
type Loss struct {
	Room string
	// Agent is the identity of the agent participant.
	Agent string
	Pod   types.NamespacedName
	UID   types.UID
	Node  string
	Cause Cause
	// Detail is what else is known, often nothing.
	Detail string
	At     time.Time

	project string
}

// holder is who holds a call, as far as the fleet knows.
type holder struct {
	pod  types.NamespacedName
	uid  types.UID
	node string
}

// losses records every loss and notifies its watchers. It also records who held which room.
type losses struct {
	mu       sync.Mutex
	all      []Loss
	watchers map[int]func(Loss)
	next     int
	holders  map[[2]string]holder
	joining  map[string]bool // identities of agents that try to join their rooms
}

// add records l and notifies every watcher before it returns.
func (ls *losses) add(l Loss) {
	ls.mu.Lock()
	ls.all = append(ls.all, l)
	watchers := make([]func(Loss), 0, len(ls.watchers))
	for _, w := range ls.watchers {
		watchers = append(watchers, w)
	}
	ls.mu.Unlock()
	for _, w := range watchers {
		w(l)
	}
}

func (ls *losses) list() []Loss {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return append([]Loss(nil), ls.all...)
}

// watch calls f for every further loss until stop is called.
func (ls *losses) watch(f func(Loss)) (stop func()) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.watchers == nil {
		ls.watchers = map[int]func(Loss){}
	}
	id := ls.next
	ls.next++
	ls.watchers[id] = f
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		delete(ls.watchers, id)
	}
}

// hold records that h took the call in room.
func (ls *losses) hold(project, room string, h holder) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.holders == nil {
		ls.holders = map[[2]string]holder{}
	}
	ls.holders[[2]string{project, room}] = h
}

// holder returns who took the call in room last.
func (ls *losses) holder(project, room string) holder {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.holders[[2]string{project, room}]
}

// joins remembers that an agent tries to join its room, until it has joined or given up.
func (ls *losses) joins(agent string) (end func()) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.joining == nil {
		ls.joining = map[string]bool{}
	}
	ls.joining[agent] = true
	return func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		delete(ls.joining, agent)
	}
}

// isJoining reports whether an agent of the fleet tries to join its room. LiveKit lists it already then, although nobody can hear
// it, and it may take another attempt.
func (ls *losses) isJoining(agent string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.joining[agent]
}
