// SPDX-License-Identifier: Apache-2.0

// Package fair shares workers among namespaces, so that a namespace with unresponsive or very many pods does not block
// others. It starts no workers. With Workers a caller that gets no worker tries again; Turns keeps such callers in a
// queue.
package fair

import (
	"sync"
	"time"
)

// Again is how soon a caller that got no worker should try again.
const Again = 100 * time.Millisecond

// Workers counts a number of workers. Each namespace may have as many as it leaves free: alone it gets half of them, a second
// namespace half of the rest, and so on. Its methods are safe for concurrent use.
type Workers struct {
	all int

	mu   sync.Mutex
	busy map[string]int
	sum  int
}

// NewWorkers returns Workers with the given number of workers, all free.
func NewWorkers(all int) *Workers { return &Workers{all: all, busy: map[string]int{}} }

// Take takes a worker for a namespace, and reports whether it may have one more. The worker
// has to be given back.
func (w *Workers) Take(namespace string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	free := w.all - w.sum
	if w.busy[namespace] > 0 && w.busy[namespace] >= free {
		return false
	}
	w.busy[namespace]++
	w.sum++
	return true
}

// Give gives a worker back.
func (w *Workers) Give(namespace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum--
	if w.busy[namespace]--; w.busy[namespace] == 0 {
		delete(w.busy, namespace)
	}
}
