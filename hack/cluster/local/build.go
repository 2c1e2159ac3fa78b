// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/callguard/callguard/hack/cluster/clock"
)

// ensureTools returns the folder of the programs of each module, and builds missing ones.
func ensureTools(ctx context.Context, cfg Config, out *progress) (map[string]string, error) {
	plans, err := planTools(ctx, cfg)
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	var missing []buildPlan
	for _, p := range plans {
		if dirs[p.name], err = p.cached(); err != nil {
			return nil, err
		}
		built, err := exists(dirs[p.name])
		if err != nil {
			return nil, err
		}
		if !built {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return dirs, nil
	}
	out.printf("counting what is to be built of %s", names(missing))
	progress, err := estimateBuilds(ctx, missing)
	if err != nil {
		return nil, err
	}
	out.printf("%d packages to compile, once for these versions", progress.total)
	for _, p := range missing {
		p.estimate = progress
		if err := p.ensure(ctx, dirs[p.name], out); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

func names(plans []buildPlan) string {
	var list []string
	for _, p := range plans {
		list = append(list, p.name)
	}
	return strings.Join(list, ", ")
}

// cached returns the folder in the user's cache folder into which the module is built, so that others find it.
func (p buildPlan) cached() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the folder of the programs: %w; make %s writable", err, cache)
	}
	return filepath.Join(bin, p.name+"-"+p.sum), nil
}

func planTools(ctx context.Context, cfg Config) ([]buildPlan, error) {
	repository, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	modules := toolModules(cfg)
	plans := make([]buildPlan, len(modules))
	group, ctx := errgroup.WithContext(ctx)
	for i, m := range modules {
		group.Go(func() (err error) {
			plans[i], err = planBuild(ctx, repository, m)
			return err
		})
	}
	return plans, group.Wait()
}

// ensure builds a module once, even if several processes ask for it. A folder with the final name is always
// complete.
func (p buildPlan) ensure(ctx context.Context, dir string, out *progress) error {
	if built, err := exists(dir); built || err != nil {
		return err
	}
	unlock, err := lock(ctx, dir+".lock", func() {
		out.printf("%s: another process builds it; waiting", p.name)
	})
	if err != nil {
		return err
	}
	defer unlock()
	if built, err := exists(dir); built || err != nil {
		return err
	}
	// We hold the lock, so any leftovers are from an interrupted build.
	unfinished := dir + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("cannot remove a cut-off build: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	if err := p.build(ctx, unfinished, out); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return fmt.Errorf("cannot build %s: %w", p.name, err)
	}
	return nil
}

// tellEvery is the interval of progress lines.
const tellEvery = 8 * time.Second

// build runs the go command and reports its progress.
func (p buildPlan) build(ctx context.Context, dir string, out *progress) error {
	began := time.Now()
	what := strings.Join(p.programs(), ", ")
	out.printf("%s: building %s", p.name, what)
	if p.estimate == nil {
		p.estimate = &estimate{began: began}
	}

	environment, more := buildEnvironment(), []string(nil)
	if p.clock {
		temporary, err := os.MkdirTemp("", "callguard-clock-")
		if err != nil {
			return fmt.Errorf("cannot build %s: %w", what, err)
		}
		defer func() { _ = os.RemoveAll(temporary) }()
		arg, env, err := clock.Prepare(ctx, temporary, environment)
		if err != nil {
			return fmt.Errorf("cannot build %s: %w", what, err)
		}
		environment, more = env, []string{arg}
	}
	cmd := exec.CommandContext(ctx, "go", p.arguments(dir, more...)...)
	cmd.Dir, cmd.Env = p.dir, environment
	// An interrupt lets the go command clean up after itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("cannot build %s: %w", what, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot build %s: %w; install Go and put it on the PATH", what, err)
	}
	var complaints []string
	done := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		defer close(done)
		complaints = readBuild(pipe, &p.estimate.compiled)
		return nil
	})
	group.Go(func() error {
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return nil
			case <-tick.C:
				out.printf("%s: %s", p.name, p.estimate)
			}
		}
	})
	_ = group.Wait() // neither fails
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("cannot build %s in %s: %w\n%s", what, p.dir, err, strings.Join(complaints, "\n"))
	}
	for _, name := range p.programs() {
		if built, err := exists(filepath.Join(dir, name)); !built || err != nil {
			return fmt.Errorf("cannot build %s in %s: the go command made no such program; correct its tool lines", name, p.dir)
		}
	}
	out.printf("%s: built in %s", p.name, minutes(time.Since(began)))
	return nil
}

// readBuild counts the lines that only name a package, as go build -v prints them, and keeps the last of the others.
func readBuild(r io.Reader, compiled *atomic.Int64) (complaints []string) {
	const keep = 20
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line != "" && !strings.ContainsAny(line, " \t#:") {
			compiled.Add(1)
			continue
		}
		if complaints = append(complaints, line); len(complaints) > keep {
			complaints = complaints[1:]
		}
	}
	_, _ = io.Copy(io.Discard, r) // after a line too long to scan, the build must not block on its output
	return complaints
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Program returns the path of one program that instances run, such as "livekit-server", for callers that need it
// alone. It builds the program if it is missing.
func Program(ctx context.Context, name string, out io.Writer) (string, error) {
	repository, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	for _, m := range toolModules(Config{Kubelets: true}) {
		p, err := planBuild(ctx, repository, m)
		if err != nil {
			return "", err
		}
		if !slices.Contains(p.programs(), name) {
			continue
		}
		dir, err := p.cached()
		if err != nil {
			return "", err
		}
		return filepath.Join(dir, name), p.ensure(ctx, dir, &progress{w: out})
	}
	return "", fmt.Errorf("there is no program %q under hack/tools", name)
}
