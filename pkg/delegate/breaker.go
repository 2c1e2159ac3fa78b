// SPDX-License-Identifier: Apache-2.0

package delegate

import (
	"errors"
	"fmt"
	"sync"
)

// tolerated is how many requests in a row may go without an answer before the next are
// refused at once. All autoscalers of a cluster share a few workers, and each that waits for
// an adapter that is gone keeps one from those that scale on calls.
const tolerated = 3

// errGone is the outcome of a request whose sender did not wait for it. It says nothing of the
// other adapter.
var errGone = errors.New("who asked is gone")

// breaker refuses requests while the other adapter does not answer. Once it lists its metrics
// again, one request at a time is let through, and the first answer lets all through.
type breaker struct {
	mu       sync.Mutex
	failures int   // in a row
	cause    error // of the last
	lists    bool  // it has listed its metrics since
	trying   bool  // a request has been let through since
}

// enter lets a request through, which tells the outcome when it leaves, or says why not.
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

// listed notes whether the other adapter has listed its metrics.
func (b *breaker) listed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lists = err == nil; !b.lists && b.failures >= tolerated {
		b.cause = err
	}
}
