// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/callguard/callguard/pkg/guard"
)

// status is what /readyz says.
type status struct {
	guard    *guard.Guard
	unlocked atomic.Bool // the lease is held by an unlock, whoever led before
}

// ready says why the guard does not hold calls; nil when it does.
func (s *status) ready() error {
	if s.unlocked.Load() {
		return errors.New("unlocked: nothing is locked until a guard starts anew")
	}
	if err := s.guard.Ready(); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	return nil
}
