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

// TestTogether: nearly all mutants of a package share a test binary, and what is compiled for it is Go.
func TestTogether(t *testing.T) {
	of := map[string][]Mutant{}
	for _, m := range Catalogue() {
		if !m.ofPolicies() {
			of[m.Package] = append(of[m.Package], m)
		}
	}
	for where, mutants := range of {
		files, has, err := together(filepath.Join("..", ".."), mutants)
		if err != nil {
			t.Fatal(err)
		}
		for path, text := range files {
			if _, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution); err != nil {
				t.Error(err)
			}
		}
		for _, m := range mutants {
			if !has[m.Name] {
				t.Logf("%s is compiled by itself", m.Name)
			}
		}
		if len(has)*10 < len(mutants)*9 {
			t.Errorf("of %d mutants of %s only %d share a test binary", len(mutants), where, len(has))
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
