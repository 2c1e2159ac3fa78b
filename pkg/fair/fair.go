// SPDX-License-Identifier: Apache-2.0

// Package fair shares workers among namespaces, so that a namespace with silent or very many pods keeps no other waiting.
// It starts no workers. Who gets none of Workers tries again; Turns keeps those in line.
package fair

import (
	"sync"
	"time"
)

// Again is how soon somebody who got no worker is to come again.
const Again = 100 * time.Millisecond

// Workers are so many workers. Each namespace may have as many as it leaves free: alone it gets half of them, and one that comes
// beside it half of the rest, and so on. Its methods are safe for concurrent use.
type Workers struct {
	all int

	mu   sync.Mutex
	busy map[string]int
	sum  int
}

// NewWorkers returns so many workers, none of which is busy.
func NewWorkers(all int) *Workers { return &Workers{all: all, busy: map[string]int{}} }

// Take takes a worker for a namespace, if it may have one more. It is to be given back.
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

// Give gives one back.
func (w *Workers) Give(namespace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum--
	if w.busy[namespace]--; w.busy[namespace] == 0 {
		delete(w.busy, namespace)
	}
}
