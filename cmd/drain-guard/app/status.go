// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
)

// status is what /readyz says.
type status struct {
	guard    func() error // why it does not hold calls
	unlocked func() bool  // whether the lease is held by an unlock, whoever led before
}

// ready says why the guard does not hold calls; nil when it does.
func (s *status) ready() error {
	if s.unlocked() {
		return errors.New("unlocked: nothing is locked until a drain-guard starts again")
	}
	if err := s.guard(); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	return nil
}
