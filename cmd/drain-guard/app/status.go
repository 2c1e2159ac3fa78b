// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
)

// status decides what /readyz answers.
type status struct {
	guard    func() error // why the guard cannot work
	unlocked func() bool  // whether the lease is held by an unlock, whoever led before
}

// ready returns why the guard is not ready; nil if it is.
func (s *status) ready() error {
	if s.unlocked() {
		return errors.New("unlocked: nothing is locked until a drain-guard starts again")
	}
	if err := s.guard(); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	return nil
}
