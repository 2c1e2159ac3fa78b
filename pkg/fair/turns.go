// SPDX-License-Identifier: Apache-2.0

package fair

import (
	"slices"
	"sync"
)

// Turns shares workers among namespaces as Workers does, and within each namespace in order: what gets no worker is queued, and
// whoever gives a worker back continues with the first in the queue that may have it. So none of a hundred workloads that change
// all the time is skipped. Its methods are safe for concurrent use.
type Turns[T any] struct {
	workers *Workers

	mu     sync.Mutex
	line   []waiting[T]
	passed int // how many turns in a row went by rank
}

type waiting[T any] struct {
	namespace string
	what      T
	rank      int
}

// Highest is the highest rank.
const Highest = 3

// ranked is how many turns of a few go to who has the highest rank; the last of them is the first's in line.
const ranked = 4

// NewTurns returns so many workers, none of which is busy.
func NewTurns[T any](all int) *Turns[T] { return &Turns[T]{workers: NewWorkers(all)} }

// Take takes a worker for something of a namespace, or queues it. Higher ranks, from 0 to Highest, go first, except in every fifth
// turn, which goes to the first in the queue: so nothing waits for more than five times as many as are before it. What is taken has
// to be given back.
func (t *Turns[T]) Take(namespace string, what T, rank int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	inLine := slices.ContainsFunc(t.line, func(w waiting[T]) bool { return w.namespace == namespace })
	if !inLine && t.workers.Take(namespace) {
		return true
	}
	t.line = append(t.line, waiting[T]{namespace, what, rank})
	return false
}

// Waits reports whether anything of a namespace is queued.
func (t *Turns[T]) Waits(namespace string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.line, func(w waiting[T]) bool { return w.namespace == namespace })
}

// Give gives a namespace's worker back, and takes it for the first in the queue that may have it, if any. That has to be given
// back, too.
func (t *Turns[T]) Give(namespace string) (next T, taken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.workers.Give(namespace)
	i := -1
	for rank := Highest; rank > 0 && i < 0 && t.passed < ranked; rank-- {
		i = slices.IndexFunc(t.line, func(w waiting[T]) bool { return w.rank == rank && t.workers.Take(w.namespace) })
	}
	if i < 0 {
		i = slices.IndexFunc(t.line, func(w waiting[T]) bool { return t.workers.Take(w.namespace) })
	}
	if t.passed++; i <= 0 {
		t.passed = 0
	}
	if i < 0 {
		return next, false
	}
	next = t.line[i].what
	t.line = slices.Delete(t.line, i, i+1)
	return next, true
}
