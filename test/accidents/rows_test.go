// SPDX-License-Identifier: Apache-2.0

package accidents

import (
	"flag"
	"testing"

	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the table of docs/lock.md") //nolint:gochecknoglobals // a flag of the test

// TestDocs compares the table in docs/lock.md with the rows.
func TestDocs(t *testing.T) {
	trial.Documented(t, "../../docs/lock.md", "accidents", Table(), *update)
}

// TestRows checks that each row is complete and readable.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rows() {
		if seen[r.Name()] {
			t.Errorf("there are two rows %q", r.Name())
		}
		seen[r.Name()] = true
		if r.Do == nil || r.Healed == nil || r.Notices == "" || r.Heals == "" {
			t.Errorf("row %q is not whole", r.Name())
		}
		if r.Opens != "" && r.Noticed == nil {
			t.Errorf("row %q endangers calls, and nobody notices", r.Name())
		}
	}
	if len(seen) < 40 {
		t.Errorf("there are %d rows; want at least 40", len(seen))
	}
}
