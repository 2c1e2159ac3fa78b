// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/callguard/callguard/test/lab"
)

const (
	// testWithin limits one test. A mutant may make it wait forever, which also counts as noticed.
	testWithin = 4 * time.Minute
	// interruptedFor is how long a test that was interrupted may take to clear its cluster.
	interruptedFor = time.Minute
)

// options say which mutants to run.
type options struct {
	only     []string // none: all
	policies bool
}

func (o options) choose(all []Mutant) (chosen []Mutant, err error) {
	for _, m := range all {
		named := len(o.only) == 0 || slices.ContainsFunc(o.only, func(begin string) bool { return strings.HasPrefix(m.Name, begin) })
		if named && m.ofPolicies() == o.policies {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no mutant's name begins with one of %q; use one such as gate/, or policy/ with --policies", o.only)
	}
	return chosen, nil
}

// runner compiles and runs tests of mutants, in a folder of its own.
type runner struct {
	root, dir string
	out       io.Writer
	together  map[string]bool // mutants that are in the test binary of their package
}

func newRunner(ctx context.Context, out io.Writer) (*runner, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot find the repository: %w", err)
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return nil, err
	}
	return &runner{root: filepath.Dir(strings.TrimSpace(string(root))), dir: dir, out: out, together: map[string]bool{}}, nil
}

func (r *runner) close() { _ = os.RemoveAll(r.dir) } // a temporary folder

// result is what a test did.
type result struct {
	passed bool
	// failed means that the named test failed, and not something before it.
	failed bool
	// late says that it did so because testWithin was over. Unless the mutant waits, the machine has too much to do.
	late   bool
	output string
}

// runAll runs each named test once as it is, which has to pass, and then for each mutant, for which it has to fail.
func (r *runner) runAll(ctx context.Context, mutants []Mutant) error {
	if err := r.join(ctx, mutants); err != nil {
		return err
	}
	if err := r.sound(ctx, mutants); err != nil {
		return err
	}
	var survivors []string
	var broken []error
	for _, m := range mutants {
		began := time.Now()
		got, err := r.try(ctx, m)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted at %s", m.Name)
		}
		word := "killed"
		switch {
		case err != nil:
			word = "BROKEN"
			broken = append(broken, fmt.Errorf("%s: %w", m.Name, err))
		case !got.failed:
			word = "SURVIVES"
			survivors = append(survivors, m.Name)
		case got.late:
			word = "too slow"
		}
		r.printf("%-8s  %-42s %-28s %-32s %4.0f s\n", word, m.Name, m.Package, m.Test, time.Since(began).Seconds())
	}
	r.printf("%d of %d mutants are killed\n", len(mutants)-len(survivors)-len(broken), len(mutants))
	if len(survivors) > 0 {
		broken = append(broken, fmt.Errorf("these survive, so tests are missing: %s", strings.Join(survivors, ", ")))
	}
	return errors.Join(broken...)
}

func (r *runner) printf(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format, args...) }

// join compiles the tests of each package with all of its mutants, if they compile so.
func (r *runner) join(ctx context.Context, mutants []Mutant) error {
	packages := map[string][]Mutant{}
	for _, m := range mutants {
		if !m.ofPolicies() {
			packages[m.Package] = append(packages[m.Package], m)
		}
	}
	for where, of := range packages {
		files, has, err := together(r.root, of)
		if err != nil {
			return err
		}
		overlay, err := r.overlay(files)
		if err != nil {
			return err
		}
		err = r.compile(ctx, where, r.binary(where), overlay)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.printf("%s does not compile with all of its mutants at once, so each is compiled by itself: %v\n", where, err)
			continue
		}
		maps.Copy(r.together, has)
	}
	return nil
}

// sound runs the tests of the mutants on what is not changed.
func (r *runner) sound(ctx context.Context, mutants []Mutant) error {
	done := map[string]bool{}
	for _, m := range mutants {
		if key := m.Package + " " + m.Test; !done[key] {
			done[key] = true
			binary := r.binary(m.Package)
			if err := r.compile(ctx, m.Package, binary, ""); err != nil {
				return err
			}
			got, err := r.test(ctx, m, binary)
			if err != nil {
				return err
			}
			if !got.passed {
				return fmt.Errorf("%s of %s fails without any change, so it proves nothing:\n%s", m.Test, m.Package, got.output)
			}
		}
	}
	return nil
}

// try runs the test of a mutant, which notices it by failing.
func (r *runner) try(ctx context.Context, m Mutant) (result, error) {
	text, err := os.ReadFile(filepath.Join(r.root, m.File))
	if err != nil {
		return result{}, err
	}
	if n := strings.Count(string(text), m.Old); n != m.times() {
		return result{}, fmt.Errorf("the text to change occurs %d times in %s; want %d", n, m.File, m.times())
	}
	changed := strings.ReplaceAll(string(text), m.Old, m.New)
	if m.ofPolicies() {
		folder, err := r.manifests(m, changed)
		if err != nil {
			return result{}, err
		}
		return r.test(ctx, m, r.binary(m.Package), lab.ManifestsVariable+"="+folder)
	}
	if r.together[m.Name] {
		return r.test(ctx, m, r.binary(m.Package), mutantVariable+"="+m.Name)
	}
	overlay, err := r.overlay(map[string]string{filepath.Join(r.root, m.File): changed})
	if err != nil {
		return result{}, err
	}
	binary := filepath.Join(r.dir, "mutant.test")
	if err := r.compile(ctx, m.Package, binary, overlay); err != nil {
		return result{}, err
	}
	return r.test(ctx, m, binary)
}

// binary is where the tests of a package are, compiled as they are.
func (r *runner) binary(where string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(where, "/", "-")+".test")
}

// compile compiles the tests of a package, unless they are.
func (r *runner) compile(ctx context.Context, where, binary, overlay string) error {
	args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary} // linking takes most of the time
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	} else if _, err := os.Stat(binary); err == nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+where)...)
	cmd.Dir = r.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("it does not compile: %w\n%s", err, out)
	}
	return nil
}

// overlay writes what replaces files, or is there besides.
func (r *runner) overlay(files map[string]string) (string, error) {
	replace := map[string]string{}
	for i, name := range slices.Sorted(maps.Keys(files)) {
		replace[name] = filepath.Join(r.dir, fmt.Sprintf("%d-%s", i, filepath.Base(name)))
		if err := os.WriteFile(replace[name], []byte(files[name]), 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(r.dir, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

// manifests writes the manifests with the file of a mutant into a folder.
func (r *runner) manifests(m Mutant, changed string) (string, error) {
	folder := filepath.Join(r.dir, "manifests")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(r.root, filepath.Dir(m.File), "*.yaml"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if filepath.Base(file) == filepath.Base(m.File) {
			text = []byte(changed)
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(file)), text, 0o600); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// test runs the test of a mutant, in its package's folder.
func (r *runner) test(ctx context.Context, m Mutant, binary string, env ...string) (result, error) {
	cmd := exec.CommandContext(ctx, binary, "-test.run", pattern(m.Test), "-test.timeout", testWithin.String(), "-test.failfast")
	cmd.Dir, cmd.Env = filepath.Join(r.root, m.Package), append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = interruptedFor
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return result{}, err
	}
	name, _, _ := strings.Cut(m.Test, "/")
	text := out.String()
	if err == nil && strings.Contains(text, "no tests to run") {
		return result{}, fmt.Errorf("there is no test %s", m.Test)
	}
	failed := err != nil && (strings.Contains(text, "--- FAIL: "+name) || strings.Contains(text, "panic: "))
	if err != nil && !failed {
		return result{}, fmt.Errorf("%s did not come to run:\n%s", m.Test, text)
	}
	return result{passed: err == nil, failed: failed, late: strings.Contains(text, "panic: test timed out"), output: text}, nil
}

// pattern matches a test, or a part of it, and nothing else.
func pattern(test string) string { return "^" + strings.ReplaceAll(test, "/", "$/^") + "$" }
