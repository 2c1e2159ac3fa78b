// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the table of docs/soak.md") //nolint:gochecknoglobals // a flag of the test

func TestShortFormIsReadBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	later := aRun().Short()
	earlier := later
	earlier.Began = later.Began.Add(-time.Hour)
	for _, s := range []Short{later, earlier} {
		if _, err := s.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	read, err := ReadShorts(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Short{earlier, later}, read); diff != "" {
		t.Errorf("the short forms say something else (-written +read):\n%s", diff)
	}
}

func TestShortForm(t *testing.T) {
	t.Parallel()
	s := aRun().Short()
	if s.Calls != 3 || s.Outcomes[Dropped] != 1 || s.Answerable != 1 || s.Undone != 1 || len(s.Failures) != 3 {
		t.Errorf("the short form does not tell what went wrong: %+v", s)
	}
	if diff := cmp.Diff(map[Kind]Count{DrainNode: {Done: 1, Skipped: 1}}, s.Disruptions); diff != "" {
		t.Errorf("the disruptions are wrong (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[Kind]Count{KillGuard: {Done: 1}}, s.Faults); diff != "" {
		t.Errorf("the faults are wrong (-want +got):\n%s", diff)
	}
	if s.Goroutines == nil || s.Goroutines.Process != "metrics-adapter 7001" || s.Goroutines.PerHour < 59 || s.Goroutines.PerHour > 61 {
		t.Errorf("the steepest slope of goroutines is %+v; want 60 an hour, of the adapter", s.Goroutines)
	}
	r := aRun()
	r.Slopes = nil
	if s := r.Short(); s.Memory != nil || s.Goroutines != nil {
		t.Error("a run without slopes tells some")
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	one := aRun().Short()
	other := one
	other.Seed, other.Nodes, other.Machine.Load = 43, 40, "0.50 0.40 0.30"
	lines := strings.Split(Table([]Short{one, other}), "\n")
	want := []string{
		"| **all: 2 runs, 2 seeds** |  | 20m0s | 6 | **2** | **2** / 0 | 0 | 2 | 2 |  |  |  |",
		"| 2026-03-01 12:00, seed 42 | 10 | 10m0s | 3 | **1** | **1** / 0 | 0 | 1 | 1 | 1s / 1s | 0s / 0s of 0; 1 did not end | unknown |",
		"| 2026-03-01 12:00, seed 43 | 40 | 10m0s | 3 | **1** | **1** / 0 | 0 | 1 | 1 | 1s / 1s | 0s / 0s of 0; 1 did not end | 0.50 0.40 0.30 |",
		"",
	}
	if diff := cmp.Diff(want, lines[2:]); diff != "" {
		t.Errorf("the table is wrong (-want +got):\n%s", diff)
	}
}

func TestNoShortForm(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(`{"calls": 3, "steps": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ReadShorts(filepath.Dir(path))
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "use a file that a run wrote") {
		t.Errorf("a whole report among the short forms is answered %v; want the file, and what to do", err)
	}
}

// TestDocs compares the table of docs/soak.md with the runs that are kept.
func TestDocs(t *testing.T) {
	shorts, err := ReadShorts("../../docs/figures/soak")
	if err != nil {
		t.Fatal(err)
	}
	trial.Documented(t, "../../docs/soak.md", "runs", Table(shorts), *update)
}
