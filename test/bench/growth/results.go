// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// results maps benchmarks, such as Read/500, and units to values.
type results map[string]map[string]float64

// run runs the suite's benchmarks.
func (s suite) run(ctx context.Context, into results, progress io.Writer) error {
	var out bytes.Buffer
	//nolint:gosec // its arguments are constants
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark("+strings.Join(s.benchmarks(), "|")+")$",
		"-cpu", "1", "-benchtime", s.time, "-count", strconv.Itoa(s.count), "-timeout", "20m", s.folder)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, progress), progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the benchmarks of %s fail: %w; run go in the repository", s.folder, err)
	}
	return into.read(&out)
}

// benchmarks returns the names of those that it needs.
func (s suite) benchmarks() []string {
	names := map[string]bool{}
	for _, one := range s.series {
		names[one.benchmark] = true
	}
	for _, r := range s.ratios {
		for _, name := range []string{r.benchmark, r.of} {
			whole, _, _ := strings.Cut(name, "/")
			names[whole] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// read adds the output of `go test -bench`: for each benchmark, the smallest result.
// Source: https://go.dev/design/14313-benchmark-format
func (r results) read(text io.Reader) error {
	all, err := io.ReadAll(text)
	if err != nil {
		return err
	}
	processors := regexp.MustCompile(`-\d+$`)
	for line := range strings.Lines(string(all)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := processors.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
		if r[name] == nil {
			r[name] = map[string]float64{}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("cannot read what benchmark %s said, %q: %w", name, line, err)
			}
			unit := fields[i+1]
			if before, has := r[name][unit]; !has || value < before {
				r[name][unit] = value
			}
		}
	}
	return nil
}

// points returns the measurements of a series, by size.
func (r results) points(s series) ([]point, error) {
	var list []point
	for name, values := range r {
		number, of := strings.CutPrefix(name, s.benchmark+"/")
		size, err := strconv.Atoi(number)
		if value, has := values[s.unit]; of && has && err == nil {
			list = append(list, point{float64(size), value})
		}
	}
	if len(list) < 2 {
		return nil, fmt.Errorf("benchmark %s gave %d results in %s; want one for each size", s.benchmark, len(list), s.unit)
	}
	slices.SortFunc(list, func(a, b point) int { return int(a.size - b.size) })
	return list, nil
}
