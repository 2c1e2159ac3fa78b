// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"testing"
)

func TestStatus(t *testing.T) {
	for name, tc := range map[string]struct {
		guard    error
		unlocked bool
		want     string
	}{
		"Ready":    {},
		"NotReady": {guard: errors.New("the guarded pods are still being read"), want: "not ready: the guarded pods are still being read"},
		"Unlocked": {unlocked: true, want: "unlocked: nothing is locked until a drain-guard starts again"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &status{guard: func() error { return tc.guard }, unlocked: func() bool { return tc.unlocked }}
			got := ""
			if err := s.ready(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("it says %q, want %q", got, tc.want)
			}
		})
	}
}
