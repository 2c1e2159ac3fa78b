// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Documented compares the part of a document between "<!-- name: begin -->" and "<!-- name:
// end -->" with the text that is generated from code, or writes that text if update is true.
func Documented(t testing.TB, path, name, want string, update bool) {
	t.Helper()
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(text), begin)
	is, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has nothing between %q and %q", path, begin, end)
	}
	if update {
		if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, is); diff != "" {
		t.Errorf("%s is not what the code says; run the tests of this package with -update (-code +docs):\n%s", path, diff)
	}
}
