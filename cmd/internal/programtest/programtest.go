// SPDX-License-Identifier: Apache-2.0

// Package programtest is for the tests of the programs' settings. No program
// imports it.
package programtest

import (
	"strings"
	"testing"

	"github.com/callguard/callguard/cmd/internal/program"
)

// Validate parses args into settings, and fails t unless exactly the mistakes in want are
// reported: a part of each, in order. None may repeat the word hidden, which stands for a
// password.
func Validate(t *testing.T, reason string, settings program.Settings, args, want []string) {
	t.Helper()
	if err := settings.Flags().Parse(args); err != nil {
		t.Fatal(err)
	}
	err := settings.Validate()
	var lines []string
	if err != nil {
		lines = strings.Split(err.Error(), "\n")
	}
	if len(lines) != len(want) {
		t.Fatalf("%s %v: %d mistakes, want %d:\n%v", reason, args, len(lines), len(want), err)
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) || strings.Contains(lines[i], "hidden") {
			t.Errorf("%s %v: got %q; want it to say %q", reason, args, lines[i], want[i])
		}
	}
}
