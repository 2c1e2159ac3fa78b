// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
)

// page is docs/figures/growth.md.
func page(rows []row, compared []comparison) string {
	var b strings.Builder
	b.WriteString("# Growth\n\n" +
		"What callguard takes as a cluster grows. `make bench-growth` measures it and writes this page; it fails if something grows faster, or takes more, than the last column says. " +
		"Processor time is that of the whole process, with its garbage collection, on one processor. Of several runs the least counts; the rooms run once. " +
		"An exponent of 1 means as many times as much, of 0 the same at any size: the least squares of the logarithms.\n\n")
	_, _ = fmt.Fprintf(&b, "Measured with %s on %s, %d processors. ", runtime.Version(), runtime.GOARCH, runtime.NumCPU())
	b.WriteString("Each row is a Go benchmark, for example `go test -run '^$' -bench '^BenchmarkRead$' ./pkg/metricsapi`.\n\n![The growth of each, drawn](growth.svg)\n\n")
	b.WriteString("| what | with | takes | exponent | benchmark | at most |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		_, _ = fmt.Fprintf(&b, "| %s | %s %s | %s | %.2f | `Benchmark%s` in `%s` | %s |\n", r.what, list(r.sizes()), r.of, list(r.values()), r.exponent, r.benchmark, r.folder, r.promised())
	}
	b.WriteString("\n| what | ratio | benchmarks | at most |\n|---|---|---|---|\n")
	for _, c := range compared {
		_, _ = fmt.Fprintf(&b, "| %s | %.2f | `Benchmark%s`, `Benchmark%s` in `%s` | %g |\n", c.what, c.is, c.benchmark, c.of, c.folder, c.most)
	}
	return b.String()
}

func (r row) sizes() (all []string) {
	for _, p := range r.points {
		all = append(all, count(p.size))
	}
	return all
}

func (r row) values() (all []string) {
	for _, p := range r.points {
		all = append(all, shown(r.unit, p.value))
	}
	return all
}

// promised formats the limits of a series.
func (r row) promised() string {
	var all []string
	if r.steepest > 0 {
		all = append(all, fmt.Sprintf("exponent %g", r.steepest))
	}
	if r.most > 0 {
		all = append(all, shown(r.unit, r.most))
	}
	if len(all) == 0 {
		return "–"
	}
	return strings.Join(all, "; ")
}

func list(all []string) string { return strings.Join(all, ", ") }

// shown formats a value.
func shown(unit string, value float64) string {
	switch {
	case unit == cores:
		return digits(value) + " processors"
	case unit != processor:
		return digits(value) + " " + unit
	case value < 1e6:
		return digits(value/1e3) + " µs"
	case value < 1e9:
		return digits(value/1e6) + " ms"
	default:
		return digits(value/1e9) + " s"
	}
}

// digits formats a number with two significant digits, or all before the decimal point.
func digits(value float64) string {
	if value <= 0 {
		return "0"
	}
	after := max(0, 1-int(math.Floor(math.Log10(value))))
	return strconv.FormatFloat(value, 'f', after, 64)
}

// count formats a number with a comma at each thousand.
func count(n float64) string {
	text := strconv.Itoa(int(n))
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
