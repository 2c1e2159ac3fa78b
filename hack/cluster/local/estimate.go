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

// estimate tells how far the builds of all modules are, and about how long they will still take.
type estimate struct {
	began    time.Time
	total    int // packages to compile, 0 when nobody has counted
	compiled atomic.Int64
}

// estimateBuilds counts what is to be compiled for the plans that are not built yet. Packages that several share count
// once: most have the same version and flags, and are compiled once.
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

// uncompiled names the packages that the go command would have to compile now.
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

// compiledIn reads what go build -n prints: the name of the package stands behind -p of each run of the compiler.
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

// String is how far the builds are.
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

// remaining is how long the rest takes at the pace so far; 0 while too little is done to tell.
func remaining(passed time.Duration, done, total int) time.Duration {
	const enough = 20 // one in so many
	if done*enough < total || done >= total {
		return 0
	}
	return passed * time.Duration(total-done) / time.Duration(done)
}

// minutes writes a time as 1:23.
func minutes(d time.Duration) string {
	d = d.Round(time.Second)
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
