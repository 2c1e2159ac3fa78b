// SPDX-License-Identifier: Apache-2.0

// Package trial provides polling and log capture for tests.
//
// It imports no package of callguard, and no product code imports it.
package trial

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

const (
	// patience is how long Eventually waits: longer than anything takes within a process, on
	// a machine that is busy with other tests.
	patience = 30 * time.Second
	// pace and slowPace are the intervals of Eventually and Within.
	pace     = 2 * time.Millisecond
	slowPace = 50 * time.Millisecond
)

// Eventually waits until holds returns true. It is for what happens within a process.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(pace) {
		over := time.Now().After(deadline) // it checks once more after the deadline
		if holds() {
			return
		}
		if over {
			t.Fatalf("did not happen within %s: %s", patience, what)
		}
	}
}

// Within waits until holds returns nil. It is for what other processes do. After the
// limit, t fails with the last error.
func Within(t testing.TB, limit time.Duration, what string, holds func() error) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(slowPace) {
		over := time.Now().After(deadline)
		err := holds()
		if err == nil {
			return
		}
		if over {
			t.Fatalf("did not happen within %s: %s: %v", limit, what, err)
		}
	}
}

// Must fails the test at once if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Log collects what is written to it, and can be read at any time.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns everything written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
