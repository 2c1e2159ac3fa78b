// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCutOffBuildIsNotTakenForAWholeOne(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal("no go command; install Go")
	}
	source := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module tiny\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "tiny-sum")
	if err := os.MkdirAll(filepath.Join(dir+".unfinished", "leftover"), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := buildPlan{toolModule: toolModule{name: "tiny", program: "tiny"}, dir: source, packages: []string{"."}}
	for range 2 {
		if err := p.ensure(t.Context(), dir, &progress{w: &out}); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(out.String(), "building"); got != 1 {
		t.Errorf("built %d times, want once:\n%s", got, &out)
	}
	if left, err := exists(dir + ".unfinished"); left || err != nil {
		t.Errorf("an unfinished folder is left: %v, %v", left, err)
	}
	if leftover, err := exists(filepath.Join(dir, "leftover")); leftover || err != nil {
		t.Errorf("the cut-off build went into the whole one: %v, %v", leftover, err)
	}
}
