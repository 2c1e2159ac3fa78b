// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"io"
	"sync"
)

// progress writes whole lines, from any goroutine.
type progress struct {
	mu sync.Mutex
	w  io.Writer
}

func (p *progress) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Failing to write a progress line is no reason to stop.
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}
