// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the table of docs/proof.md") //nolint:gochecknoglobals // a flag of the test

// wanted is how many mutants there are at least.
const wanted = 100

// TestCatalogue: each mutant can still be made, and the test that has to notice it is there. `make mutants` runs them.
func TestCatalogue(t *testing.T) {
	root := filepath.Join("..", "..")
	mutants, named := Catalogue(), map[string]bool{}
	if len(mutants) < wanted {
		t.Errorf("there are %d mutants; want %d or more", len(mutants), wanted)
	}
	for _, m := range mutants {
		if named[m.Name] {
			t.Errorf("%s: there are two of that name", m.Name)
		}
		named[m.Name] = true
		if m.Old == m.New || m.Harm == "" {
			t.Errorf("%s: it changes nothing, or does not say what harm it does", m.Name)
		}
		text, err := os.ReadFile(filepath.Join(root, m.File))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), m.Old); n != m.times() {
			t.Errorf("%s: in %s the text to change occurs %d times; want %d. Write in test/mutants what the file says now, or drop the mutant where the mistake cannot be made any more:\n%s", m.Name, m.File, n, m.times(), m.Old)
		}
		if name, _, _ := strings.Cut(m.Test, "/"); !hasTest(t, filepath.Join(root, m.Package), name) {
			t.Errorf("%s: %s has no test %s", m.Name, m.Package, name)
		}
	}
}

// TestDocs compares the table of docs/proof.md with the catalogue.
func TestDocs(t *testing.T) {
	trial.Documented(t, "../../docs/proof.md", "mutants", Table(), *update)
}

// hasTest reports whether the package in a folder has a test function of that name.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == name {
				return true
			}
		}
	}
	return false
}
