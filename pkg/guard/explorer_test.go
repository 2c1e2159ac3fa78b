// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// explorer visits every state that a world can reach, once.
//
// A state is reached again from the last one in which no guard was in the middle of something:
// that world is copied, and the later actions are repeated.
type explorer struct {
	seed maphash.Seed
	seen map[uint64]bool
	// ends is how often a state in which no guard is in the middle of something is followed to its
	// end: one in this many. Zero means never.
	ends int

	states, steps, followed, atRest int
	failure                         string
}

// node is a state from which to continue.
type node struct {
	base   *world   // without guards at work; never touched
	path   []string // from base to here
	live   *world   // the state itself, if a guard is at work in it
	parent *node
	action string // the action that led here
}

// explore visits states, breadth first, so that the first failure it finds is a shortest one. It
// stops there, or at the limit, and reports whether it has seen all.
func (e *explorer) explore(start *world, limit int) (all bool) {
	e.seed, e.seen = maphash.MakeSeed(), map[uint64]bool{}
	e.visit(start)
	frontier := []*node{{base: start}}
	defer func() {
		for _, n := range frontier {
			if n.live != nil {
				n.live.abandon()
			}
		}
	}()
	for len(frontier) > 0 {
		if limit > 0 && e.states >= limit {
			return false
		}
		n := frontier[0]
		frontier[0] = nil
		frontier = frontier[1:]
		names, w := e.replay(n)
		for i, name := range names {
			if i > 0 {
				_, w = e.replay(n)
			}
			e.do(w, name)
			e.steps++
			child := &node{base: n.base, path: append(slices.Clone(n.path), name), parent: n, action: name}
			if w.wrong != "" {
				e.fail(child, w.wrong)
			} else if e.visit(w) {
				if w.idle() {
					child.base, child.path = w, nil
					e.follow(child)
				} else {
					child.live = w
				}
				frontier = append(frontier, child)
			}
			if child.live == nil {
				w.abandon()
			}
			if e.failure != "" {
				return false
			}
		}
	}
	return true
}

// follow follows a state to its end.
func (e *explorer) follow(n *node) {
	if e.atRest++; e.ends == 0 || e.atRest%e.ends != 0 {
		return
	}
	e.followed++
	if err := n.base.clone().goes(e.followed%2 == 0); err != nil {
		e.fail(n, err.Error())
	}
}

// visit records a state, and reports whether it is new.
func (e *explorer) visit(w *world) bool {
	h := maphash.String(e.seed, w.key())
	if e.seen[h] {
		return false
	}
	e.seen[h] = true
	e.states++
	return true
}

// replay restores the world of a node, and lists what can happen in it.
func (e *explorer) replay(n *node) ([]string, *world) {
	w := n.live
	if n.live = nil; w == nil {
		w = n.base.clone()
		for _, name := range n.path {
			e.do(w, name)
		}
	}
	var names []string
	for _, a := range everything(w) {
		names = append(names, a.name)
	}
	return names, w
}

func (e *explorer) do(w *world, name string) {
	for _, a := range everything(w) {
		if a.name == name {
			a.do()
			return
		}
	}
	panic(fmt.Sprintf("%q was possible before: the guard does not do the same twice", name))
}

func (e *explorer) fail(n *node, what string) {
	var story []string
	for ; n.parent != nil; n = n.parent {
		story = append(story, n.action)
	}
	slices.Reverse(story)
	e.failure = what + ", after:\n  " + strings.Join(story, "\n  ")
}

// everything lists all that can happen in a world.
func everything(w *world) []action {
	list := w.actions()
	for _, p := range w.guards {
		list = append(list, p.actions()...)
	}
	return list
}

// idle reports whether no guard is in the middle of something.
func (w *world) idle() bool {
	return !slices.ContainsFunc(w.guards, func(p *process) bool { return len(p.tasks) > 0 })
}

// abandon ends what guards are in the middle of.
func (w *world) abandon() {
	for _, p := range w.guards {
		p.kill()
	}
}

// over reports whether the pod that should leave is gone, and there are as many pods as there
// should be.
func (w *world) over() bool {
	return len(w.store.pods) == w.pods && (!w.drains || w.store.byUID(w.first) == nil)
}

// goes lets a world continue without misfortune, and returns why the pod that should leave does
// not. It spoils the world.
func (w *world) goes(evicted bool) error {
	w.left = allowance{}
	if w.drains && !w.store.cordoned {
		w.store.cordoned = true
		w.store.version++
	}
	if !evicted {
		w.evictor = evictor{}
	}
	w.guards = w.guards[:1]
	defer w.abandon()
	for range 12 {
		for range 16 { // more turns than the longest task has requests
			for _, a := range everything(w) {
				if strings.HasPrefix(a.name, "somebody") || !evicted && strings.HasPrefix(a.name, "the evictor") {
					continue
				}
				for _, again := range everything(w) {
					if again.name == a.name {
						again.do()
						break
					}
				}
			}
			if w.wrong != "" {
				return errors.New(w.wrong)
			}
			if w.over() && w.hard.mostMade == 0 {
				return nil
			}
		}
		w.tick()
	}
	if w.over() {
		return nil
	}
	return fmt.Errorf("pods stay forever: %s", w.store.key())
}
