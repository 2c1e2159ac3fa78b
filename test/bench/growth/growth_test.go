// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExponent(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		points []point
		want   float64
		err    bool
	}{
		"Level":     {reason: "The same at any size.", points: []point{{500, 3}, {5_000, 3}, {20_000, 3}}, want: 0},
		"Linear":    {reason: "Ten times as many take ten times as much.", points: []point{{10, 5}, {100, 50}, {1_000, 500}}, want: 1},
		"Quadratic": {reason: "Each looks at all.", points: []point{{10, 1}, {100, 100}}, want: 2},
		"Root":      {reason: "It may be any number.", points: []point{{1, 2}, {4, 4}, {16, 8}}, want: 0.5},
		"Less":      {reason: "It may fall.", points: []point{{1, 4}, {2, 2}}, want: -1},
		"Uneven":    {reason: "Of points on no line the squares are least: 1 and 2 on both sides.", points: []point{{1, 1}, {10, 100}, {100, 100}}, want: 1},
		"One":       {reason: "One point grows in no way.", points: []point{{10, 5}}, err: true},
		"SameSize":  {reason: "Nor do two of one size.", points: []point{{10, 5}, {10, 7}}, err: true},
		"Nothing":   {reason: "Zero is not measured.", points: []point{{10, 0}, {100, 1}}, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := exponent(tc.points)
			if (err != nil) != tc.err || math.Abs(got-tc.want) > 1e-9 {
				t.Errorf("%s exponent %g, %v; want %g", tc.reason, got, err, tc.want)
			}
		})
	}
}

const printed = `goos: linux
pkg: github.com/callguard/callguard/pkg/metricsapi
BenchmarkRead/500-2         	  100000	      3300 ns/op	      3000 cpu-ns/op
BenchmarkRead/500-2         	  100000	      2900 ns/op	      3100 cpu-ns/op
BenchmarkRead/20000-2       	  100000	      3400 ns/op	      3300 cpu-ns/op	    512 B/op
BenchmarkServedRead/500     	   10000	     70000 ns/op	     60000 cpu-ns/op
PASS
`

// TestResults: the smallest of several results counts, whatever the number of processors.
func TestResults(t *testing.T) {
	r := results{}
	if err := r.read(strings.NewReader(printed)); err != nil {
		t.Fatal(err)
	}
	got, err := r.points(series{benchmark: "Read", unit: processor})
	if diff := cmp.Diff([]point{{500, 3000}, {20_000, 3300}}, got, cmp.AllowUnexported(point{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if is := r["ServedRead/500"][processor]; is != 60_000 {
		t.Errorf("on one processor: %g", is)
	}
	if _, err := r.points(series{benchmark: "ServedRead", unit: processor}); err == nil {
		t.Error("one size is no growth")
	}
	if err := r.read(strings.NewReader("BenchmarkRead/500-2 10 many ns/op\n")); err == nil {
		t.Error("something that is no number was read")
	}
}

func TestShown(t *testing.T) {
	for want, tc := range map[string]struct {
		unit  string
		value float64
	}{
		"3.4 µs":              {processor, 3_412},
		"213 ms":              {processor, 213_020_259},
		"7.9 s":               {processor, 7.9e9},
		"0.000062 processors": {cores, 0.0000621},
		"0.025 processors":    {cores, 0.0248},
		"1.7 MiB":             {mebibytes, 1.742},
		"101 MiB":             {mebibytes, 101.2},
		"0 MiB":               {mebibytes, 0},
	} {
		if got := shown(tc.unit, tc.value); got != want {
			t.Errorf("%g %s is shown as %q, want %q", tc.value, tc.unit, got, want)
		}
	}
}

// measured is a row of a benchmark with these results at 1,000 and at 10,000 pods.
func measured(s series, few, many float64) row {
	r := row{series: s, folder: "./pkg/x", points: []point{{1_000, few}, {10_000, many}}}
	r.exponent, _ = exponent(r.points) // of two sizes there always is one
	return r
}

func TestJudge(t *testing.T) {
	read := series{what: "a read", of: "pods", benchmark: "Read", unit: processor, steepest: 0.1, most: 100_000}
	for name, tc := range map[string]struct {
		rows  []row
		ratio float64
		want  []string
	}{
		"Holds":   {rows: []row{measured(read, 50_000, 55_000)}, ratio: 1.5},
		"Grows":   {rows: []row{measured(read, 5_000, 50_000)}, ratio: 1, want: []string{"a read grows with exponent 1.00; it shall be 0.1 at most"}},
		"Slow":    {rows: []row{measured(read, 110_000, 110_000)}, ratio: 1, want: []string{"a read takes 110 µs with 10,000 pods; it shall be 100 µs at most"}},
		"Ratio":   {ratio: 1.6, want: []string{"a list, of its encoding: 1.60; it shall be 1.5 at most"}},
		"Any":     {rows: []row{measured(series{unit: mebibytes}, 1, 1_000)}, ratio: 1},
		"Several": {rows: []row{measured(read, 5_000, 500_000)}, ratio: 2, want: []string{"exponent 2.00", "500 µs", "2.00"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := judge(tc.rows, []comparison{{ratio{what: "a list, of its encoding", most: 1.5}, "./pkg/x", tc.ratio}})
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatal(err)
			}
			for _, text := range tc.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not say %q", err, text)
				}
			}
		})
	}
}

// all returns what the suites would measure: each series, and each ratio.
func all() (rows []row, compared []comparison) {
	for i, suite := range suites() {
		for _, s := range suite.series {
			r := measured(s, 40_000, 40_000*math.Pow(10, float64(i)/2))
			r.folder = suite.folder
			rows = append(rows, r)
		}
		for _, c := range suite.ratios {
			compared = append(compared, comparison{c, suite.folder, 0.5})
		}
	}
	return rows, compared
}

// TestPage: each row names an existing benchmark, in an existing folder.
func TestPage(t *testing.T) {
	rows, compared := all()
	text := page(rows, compared)
	for _, want := range []string{
		"| an autoscaler's read of a Deployment of five pods | 1,000, 10,000 pods in its namespace | 40 µs, 40 µs | 0.00 | `BenchmarkRead` in `./pkg/metricsapi` | exponent 0.1 |",
		"| 0.50 | `BenchmarkServedList/5000`, `BenchmarkAnswer/EncodeJSON` in `./pkg/metricsapi` | 1.5 |",
		"![The growth of each, drawn](growth.svg)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not have %q:\n%s", want, text)
		}
	}
	for _, suite := range suites() {
		sources, err := filepath.Glob(filepath.Join("../../..", suite.folder, "*_test.go"))
		if err != nil || len(sources) == 0 {
			t.Fatalf("%s has no tests, %v", suite.folder, err)
		}
		var there strings.Builder
		for _, source := range sources {
			content, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			there.Write(content)
		}
		for _, benchmark := range suite.benchmarks() {
			if !strings.Contains(there.String(), "func Benchmark"+benchmark+"(") {
				t.Errorf("%s has no Benchmark%s", suite.folder, benchmark)
			}
		}
	}
}

// TestPlot: the picture is XML that refers to nothing outside, names each line, and draws
// it within its axes.
func TestPlot(t *testing.T) {
	rows, _ := all()
	rows = append(rows, measured(series{name: "<less>", unit: processor}, 5_000, 50))
	picture := plot(rows)
	decoder := xml.NewDecoder(strings.NewReader(picture))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(picture, "://") != 1 || strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
		t.Error("it refers to something, or draws something that is no number")
	}
	if !strings.Contains(picture, "prefers-color-scheme:dark") || !strings.Contains(picture, "&lt;less&gt;") {
		t.Error("it has no dark colours, or names no line")
	}
	if n := len(regexp.MustCompile(`<path class="line c\d" d="M70\.0 408\.0L`).FindAllString(picture, -1)); n != len(rows) {
		t.Errorf("%d of %d lines begin where all begin", n, len(rows))
	}
}

// TestWrite creates its folder, and reports a folder that cannot be created.
func TestWrite(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "docs", "figures")
	if err := write(folder, "text", "picture"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(folder, "growth.md")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if err := write(filepath.Join(folder, "growth.md"), "", ""); err == nil || !strings.Contains(err.Error(), "--write") {
		t.Errorf("a file for a folder: %v", err)
	}
	if err := command(t.Context(), []string{"docs/figures"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), `unexpected argument "docs/figures"`) {
		t.Errorf("an argument: %v", err)
	}
}
