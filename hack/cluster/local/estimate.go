// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// estimate tracks the progress of all builds, and estimates how long they will still take.
type estimate struct {
	began    time.Time
	total    int // packages to compile, 0 if not counted
	compiled atomic.Int64
}

// estimateBuilds counts what must be compiled for the plans that are not built yet. Packages that several plans share
// count once: most have the same version and flags, and are compiled once.
func estimateBuilds(ctx context.Context, missing []buildPlan) (*estimate, error) {
	packages := make([][]string, len(missing))
	group, ctx := errgroup.WithContext(ctx)
	for i, p := range missing {
		group.Go(func() (err error) {
			packages[i], err = p.uncompiled(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := slices.Concat(packages...)
	slices.Sort(all)
	return &estimate{began: time.Now(), total: len(slices.Compact(all))}, nil
}

// uncompiled returns the names of the packages that the go command would have to compile.
func (p buildPlan) uncompiled(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", slices.Insert(p.arguments(p.dir), 1, "-n")...)
	cmd.Dir, cmd.Env = p.dir, buildEnvironment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cannot tell what is to be built in %s: %w: %s", p.dir, err, lastLine(string(out)))
	}
	return compiledIn(string(out)), nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndex(text, "\n")+1:]
}

// compiledIn parses the output of go build -n: the package's name follows -p in each run of the compiler.
func compiledIn(script string) []string {
	var packages []string
	for line := range strings.Lines(script) {
		command, arguments, runs := strings.Cut(line, "/compile -o ")
		_, rest, named := strings.Cut(arguments, " -p ")
		if name, _, _ := strings.Cut(rest, " "); runs && named && !strings.Contains(command, " ") {
			packages = append(packages, name)
		}
	}
	return packages
}

// String describes the progress.
func (e *estimate) String() string {
	passed, done := time.Since(e.began), int(e.compiled.Load())
	text := fmt.Sprintf("%d of %d packages compiled, %s", min(done, e.total), e.total, minutes(passed))
	if e.total == 0 {
		return fmt.Sprintf("%d packages compiled, %s", done, minutes(passed))
	}
	if left := remaining(passed, done, e.total); left > 0 {
		text += ", about " + minutes(left) + " left"
	}
	return text
}

// remaining estimates the remaining time from the pace so far; 0 if too little is done.
func remaining(passed time.Duration, done, total int) time.Duration {
	const enough = 20 // one package in this many
	if done*enough < total || done >= total {
		return 0
	}
	return passed * time.Duration(total-done) / time.Duration(done)
}

// minutes formats a time as 1:23.
func minutes(d time.Duration) string {
	d = d.Round(time.Second)
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
