// SPDX-License-Identifier: Apache-2.0

package python

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// patience allows for busy machines; it takes a second.
const patience = 2 * time.Minute

// TestSnippet runs test_snippet.py: the lines do what docs/opt-in.md says.
func TestSnippet(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("%v; install it, on Debian with apt-get install python3", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// -I: neither the user's modules nor variables such as PYTHONPATH. -B: no __pycache__ beside the sources.
	command := exec.CommandContext(ctx, python, "-I", "-B", "-W", "error", "test_snippet.py", "--verbose")
	said, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, said)
	}
	if !regexp.MustCompile(`(?m)^Ran [1-9]\d* tests? in [\s\S]*^OK$`).Match(said) {
		t.Errorf("it ran no test, or left some out:\n%s", said)
	}
	t.Logf("%s", said)
}

// TestShown: docs/opt-in.md shows exactly the tested lines.
func TestShown(t *testing.T) {
	source, err := os.ReadFile("snippet.py")
	if err != nil {
		t.Fatal(err)
	}
	_, lines, found := strings.Cut(string(source), "# begin\n")
	lines, _, ended := strings.Cut(lines, "# end\n")
	if !found || !ended {
		t.Fatal("snippet.py has no lines between # begin and # end")
	}
	readme, err := os.ReadFile(filepath.Join("..", "..", "docs", "opt-in.md"))
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for line := range strings.Lines(string(readme)) {
		shown.WriteString(strings.TrimPrefix(line, "   "))
	}
	if !strings.Contains(shown.String(), "```python\n"+lines+"```\n") {
		t.Errorf("docs/opt-in.md does not show the lines of test/python/snippet.py; copy them, three spaces in:\n%s", lines)
	}
	if n := strings.Count(shown.String(), "```python\n"); n != 1 {
		t.Errorf("docs/opt-in.md shows %d blocks of Python, and one is tested", n)
	}
}
