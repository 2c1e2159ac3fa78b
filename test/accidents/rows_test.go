// SPDX-License-Identifier: Apache-2.0

package accidents

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of docs/lock.md") //nolint:gochecknoglobals // a flag of the test

// TestDocs compares the table of docs/lock.md with the rows that are played.
func TestDocs(t *testing.T) {
	const path, begin, end = "../../docs/lock.md", "<!-- accidents: begin -->\n", "<!-- accidents: end -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(text), begin)
	is, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no table between %q and %q", path, begin, end)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+begin+Table()+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(Table(), is); diff != "" {
		t.Errorf("%s is not what is played; run go test ./test/accidents -update (-played +docs):\n%s", path, diff)
	}
}

// TestRows checks that each row can be played and read.
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
			t.Errorf("row %q opens a lock, and nobody notices", r.Name())
		}
	}
	if len(seen) < 40 {
		t.Errorf("there are %d rows; want at least 40", len(seen))
	}
}
