// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	// testWithin bounds one test. A mutant may make it wait forever, which is noticed, too.
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
	return &runner{root: filepath.Dir(strings.TrimSpace(string(root))), dir: dir, out: out}, nil
}

func (r *runner) close() { _ = os.RemoveAll(r.dir) } // a temporary folder

// result is what a test did.
type result struct {
	passed bool
	// failed says that the named test failed, and not something before it.
	failed bool
	output string
}

// runAll runs each named test once as it is, which has to pass, and then for each mutant, for which it has to fail.
func (r *runner) runAll(ctx context.Context, mutants []Mutant) error {
	if err := r.sound(ctx, mutants); err != nil {
		return err
	}
	var survivors []string
	var broken []error
	for _, m := range mutants {
		began := time.Now()
		killed, err := r.kills(ctx, m)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted at %s", m.Name)
		}
		word := "killed"
		switch {
		case err != nil:
			word = "BROKEN"
			broken = append(broken, fmt.Errorf("%s: %w", m.Name, err))
		case !killed:
			word = "SURVIVES"
			survivors = append(survivors, m.Name)
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

// kills reports whether the test of a mutant notices it.
func (r *runner) kills(ctx context.Context, m Mutant) (bool, error) {
	text, err := os.ReadFile(filepath.Join(r.root, m.File))
	if err != nil {
		return false, err
	}
	if n := strings.Count(string(text), m.Old); n != m.times() {
		return false, fmt.Errorf("the text to change occurs %d times in %s; want %d", n, m.File, m.times())
	}
	changed := []byte(strings.ReplaceAll(string(text), m.Old, m.New))
	if m.ofPolicies() {
		folder, err := r.manifests(m, changed)
		if err != nil {
			return false, err
		}
		got, err := r.test(ctx, m, r.binary(m.Package), lab.ManifestsVariable+"="+folder)
		return got.failed, err
	}
	overlay, err := r.overlay(m, changed)
	if err != nil {
		return false, err
	}
	binary := filepath.Join(r.dir, "mutant.test")
	if err := r.compile(ctx, m.Package, binary, overlay); err != nil {
		return false, err
	}
	got, err := r.test(ctx, m, binary)
	return got.failed, err
}

// binary is where the tests of a package are, compiled as they are.
func (r *runner) binary(where string) string {
	return filepath.Join(r.dir, strings.ReplaceAll(where, "/", "-")+".test")
}

// compile compiles the tests of a package, unless they are.
func (r *runner) compile(ctx context.Context, where, binary, overlay string) error {
	args := []string{"test", "-c", "-ldflags=-s -w", "-o", binary} // linking takes most of the time
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

// overlay writes what replaces the file of a mutant.
func (r *runner) overlay(m Mutant, changed []byte) (string, error) {
	file := filepath.Join(r.dir, filepath.Base(m.File))
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(r.root, m.File): file}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(r.dir, "overlay.json")
	return overlay, errors.Join(os.WriteFile(file, changed, 0o600), os.WriteFile(overlay, text, 0o600))
}

// manifests writes the manifests with the file of a mutant into a folder.
func (r *runner) manifests(m Mutant, changed []byte) (string, error) {
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
			text = changed
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
	return result{passed: err == nil, failed: failed, output: text}, nil
}

// pattern matches a test, or a part of it, and nothing else.
func pattern(test string) string { return "^" + strings.ReplaceAll(test, "/", "$/^") + "$" }
