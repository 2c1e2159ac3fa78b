// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Short is a run in short form, as docs/figures/soak keeps it.
type Short struct {
	Began    time.Time `json:"began"`
	Seed     uint64    `json:"seed"`
	Rate     float64   `json:"rate"`
	Pace     float64   `json:"pace"`
	Nodes    int       `json:"nodes"`
	From     Offset    `json:"from,omitempty"`
	Duration Offset    `json:"duration"`
	Lasted   Offset    `json:"lasted"`
	Machine  Machine   `json:"machine"`
	// Failures say why the run is not good; none if it is.
	Failures []string `json:"failures,omitempty"`

	Calls      int             `json:"calls"`
	Outcomes   map[Outcome]int `json:"outcomes"`
	Answerable int             `json:"answerable"`
	Late       int             `json:"late"`
	Most       int             `json:"most"`
	Answer     Spread          `json:"answer"`

	// Disruptions and Faults are how many of each kind were done, and how many skipped.
	Disruptions map[Kind]Count `json:"disruptions"`
	Faults      map[Kind]Count `json:"faults"`
	Undone      int            `json:"undone"`
	Tail        Spread         `json:"tail"`
	Undisturbed Spread         `json:"undisturbed"`

	// Memory and Goroutines are the steepest slopes; nil if no process lived long enough for one.
	Memory     *Steepest `json:"memory,omitempty"`
	Goroutines *Steepest `json:"goroutines,omitempty"`
}

// Count is how many steps of a kind were done, and how many were skipped.
type Count struct {
	Done    int `json:"done"`
	Skipped int `json:"skipped,omitempty"`
}

// Steepest is the steepest slope among the processes of a run, and how long that process was seen.
type Steepest struct {
	Process string  `json:"process"`
	PerHour float64 `json:"perHour"`
	Over    Offset  `json:"over"`
}

// Short is the report in short form.
func (r Report) Short() Short {
	a := r.Account
	s := Short{
		Began: r.Began, Seed: r.Seed, Rate: r.Rate, Pace: r.Pace, Nodes: r.Nodes, From: r.From, Duration: r.Duration, Lasted: tenth(r.Lasted),
		Machine: r.Machine, Failures: r.Failures, Calls: a.Calls, Outcomes: a.Outcomes, Answerable: a.Answerable, Late: a.Late, Most: a.Most,
		Answer: a.Answer.tenths(), Disruptions: r.counts(Disruptions()), Faults: r.counts(Faults()), Undone: a.Undone, Tail: a.Tail.tenths(),
		Undisturbed: a.Undisturbed.tenths(),
	}
	for _, slope := range r.Slopes {
		over := tenth(slope.To - slope.From)
		if s.Memory == nil || slope.MemoryPerHour > s.Memory.PerHour {
			s.Memory = &Steepest{slope.Process, slope.MemoryPerHour, over}
		}
		if s.Goroutines == nil || slope.GoroutinesPerHour > s.Goroutines.PerHour {
			s.Goroutines = &Steepest{slope.Process, slope.GoroutinesPerHour, over}
		}
	}
	return s
}

func tenth(o Offset) Offset { return Offset(time.Duration(o).Round(100 * time.Millisecond)) }

func (s Spread) tenths() Spread {
	return Spread{Count: s.Count, Median: tenth(s.Median), P90: tenth(s.P90), P99: tenth(s.P99), Most: tenth(s.Most)}
}

func (r Report) counts(kinds []Kind) map[Kind]Count {
	counts := map[Kind]Count{}
	for _, s := range r.Steps {
		switch c := counts[s.Kind]; {
		case !slices.Contains(kinds, s.Kind):
		case s.Passed:
			c.Skipped++
			counts[s.Kind] = c
		default:
			c.Done++
			counts[s.Kind] = c
		}
	}
	return counts
}

// Write writes the short form into a folder, under a name of its own, and returns its path.
func (s Short) Write(dir string) (string, error) {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", fmt.Errorf("cannot encode the short form: %w", err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-seed-%d-nodes-%d.json", s.Began.Format("20060102-150405"), s.Seed, s.Nodes))
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, append(text, '\n'), 0o644)); err != nil { //nolint:gosec // it is to be published
		return "", fmt.Errorf("cannot keep the short form: %w", err)
	}
	return path, nil
}

// ReadShorts reads all short forms of a folder, the first run first.
func ReadShorts(dir string) ([]Short, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", dir, err)
	}
	var shorts []Short
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read a short form: %w", err)
		}
		var s Short
		strict := json.NewDecoder(bytes.NewReader(text))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&s); err != nil {
			return nil, fmt.Errorf("%s is no short form: %w; use a file that a run wrote", path, err)
		}
		shorts = append(shorts, s)
	}
	slices.SortStableFunc(shorts, func(a, b Short) int { return a.Began.Compare(b.Began) })
	return shorts, nil
}

// done is how many steps were done.
func done(counts map[Kind]Count) (n int) {
	for _, c := range counts {
		n += c.Done
	}
	return n
}

// Table is the table of docs/soak.md: all runs together, then each.
func Table(shorts []Short) string {
	var all Short
	all.Outcomes, all.Disruptions, all.Faults = map[Outcome]int{}, map[Kind]Count{}, map[Kind]Count{}
	seeds := map[uint64]bool{}
	var lines []string
	for _, s := range shorts {
		seeds[s.Seed] = true
		all.Duration += s.Duration
		all.Calls += s.Calls
		all.Answerable += s.Answerable
		all.Undone += s.Undone
		for _, o := range Outcomes() {
			all.Outcomes[o] += s.Outcomes[o]
		}
		for kind, c := range s.Disruptions {
			all.Disruptions[kind] = Count{Done: all.Disruptions[kind].Done + c.Done}
		}
		for kind, c := range s.Faults {
			all.Faults[kind] = Count{Done: all.Faults[kind].Done + c.Done}
		}
		lines = append(lines, s.line(
			fmt.Sprintf("%s, seed %d", s.Began.UTC().Format("2006-01-02 15:04"), s.Seed), fmt.Sprint(s.Nodes),
			fmt.Sprintf("%s / %s", short(s.Answer.Median), short(s.Answer.P99)), s.tails(), cmp.Or(s.Machine.Load, "unknown")))
	}
	head := "| run | nodes | schedule | calls | dropped | nobody answered: an agent could have / none had room | lost with agents that the schedule killed | disruptions | faults | answered within (half / 99 of 100) | drains beyond their longest call (half / 99 of 100) | load before |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n"
	return head + all.line(fmt.Sprintf("**all: %s, %s**", many(len(shorts), "run"), many(len(seeds), "seed")), "", "", "", "") + strings.Join(lines, "")
}

func (s Short) tails() string {
	text := fmt.Sprintf("%s / %s of %d", short(s.Undisturbed.Median), short(s.Undisturbed.P99), s.Undisturbed.Count)
	if s.Undone > 0 {
		text += fmt.Sprintf("; %d did not end", s.Undone)
	}
	return text
}

func (s Short) line(run, nodes, answers, tails, load string) string {
	return "| " + strings.Join([]string{
		run, nodes, time.Duration(s.Duration).String(), fmt.Sprint(s.Calls), fmt.Sprintf("**%d**", s.Outcomes[Dropped]),
		fmt.Sprintf("**%d** / %d", s.Answerable, s.Outcomes[Unanswered]-s.Answerable), fmt.Sprint(s.Outcomes[LostWithAgent]),
		fmt.Sprint(done(s.Disruptions)), fmt.Sprint(done(s.Faults)), answers, tails, load,
	}, " | ") + " |\n"
}
