// SPDX-License-Identifier: Apache-2.0

package delegate

import (
	"errors"
	"fmt"
	"sync"
)

// tolerated is how many requests in a row may fail before the next ones are refused at once.
// All autoscalers of a cluster share a few workers, and each that waits for a missing
// adapter blocks one that others need to scale on calls.
const tolerated = 3

// errGone is the outcome of a request whose client did not wait for the answer. It says
// nothing about the other adapter.
var errGone = errors.New("who asked is gone")

// breaker refuses requests while the other adapter does not answer. Once it lists its metrics
// again, one request at a time is let through, and the first answer lets all through.
type breaker struct {
	mu       sync.Mutex
	failures int   // in a row
	cause    error // of the last
	lists    bool  // it has listed its metrics since then
	trying   bool  // a request has been let through since then
}

// enter lets a request through, or returns why not. The request calls leave with its
// outcome.
func (b *breaker) enter() (leave func(error), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < tolerated {
		return func(err error) { b.left(err, false) }, nil
	}
	if b.lists && !b.trying {
		b.trying = true
		return func(err error) { b.left(err, true) }, nil
	}
	return nil, fmt.Errorf("it did not answer %d times in a row: %w", tolerated, b.cause)
}

func (b *breaker) left(err error, tried bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if tried {
		b.trying = false
	}
	switch {
	case err == nil:
		b.failures = 0
	case !errors.Is(err, errGone):
		b.failures, b.cause, b.lists = b.failures+1, err, false
	}
}

// listed records whether the other adapter has listed its metrics.
func (b *breaker) listed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lists = err == nil; !b.lists && b.failures >= tolerated {
		b.cause = err
	}
}
