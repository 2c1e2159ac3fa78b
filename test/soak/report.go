// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// StepRecord is what became of a step.
type StepRecord struct {
	Step

	// Ended is when it was over, with what it takes back.
	Ended Offset `json:"ended"`
	// Said is what is to be known of it: how evictions were answered, or why it was passed over.
	Said string `json:"said,omitempty"`
	// Passed says that it was passed over, because it could not be done then.
	Passed bool `json:"passed,omitempty"`
}

// Fault reports whether nobody wanted the step.
func (s StepRecord) Fault() bool { return slices.Contains(Faults(), s.Kind) }

// PodCount is how many guarded pods were in each state at a moment.
type PodCount struct {
	At       Offset `json:"at"`
	Serving  int    `json:"serving"`
	NotReady int    `json:"notReady"` // serving, but not ready yet
	Aside    int    `json:"aside"`
	Draining int    `json:"draining"`
	Released int    `json:"released"`
	// Cordoned is how many nodes took no pod.
	Cordoned int `json:"cordoned"`
	// Nodes is how many nodes held a guarded pod.
	Nodes int `json:"nodes"`
}

// all is how many pods there were.
func (c PodCount) all() int { return c.Serving + c.NotReady + c.Aside + c.Draining + c.Released }

// Machine is what a run ran on, and which versions ran.
type Machine struct {
	System     string `json:"system"`
	Processors int    `json:"processors"`
	Memory     string `json:"memory,omitempty"`
	// Load is the load before the run, over 1, 5 and 15 minutes.
	Load       string `json:"load,omitempty"`
	Go         string `json:"go"`
	Kubernetes string `json:"kubernetes"`
	LiveKit    string `json:"livekit"`
	// Revision is the last commit that changed what callguard ships, with a "+" if that has been changed since.
	Revision string `json:"revision"`
}

// Report is everything that a run has to tell.
type Report struct {
	Began time.Time `json:"began"`
	// Baseline says what was there instead of callguard; empty if callguard was.
	Baseline Baseline `json:"baseline,omitempty"`
	Seed     uint64   `json:"seed"`
	Rate     float64  `json:"rate"`
	Pace     float64  `json:"pace"`
	Nodes    int      `json:"nodes"`
	From     Offset   `json:"from,omitempty"`
	Duration Offset   `json:"duration"` // of the schedule
	Lasted   Offset   `json:"lasted"`
	Machine  Machine  `json:"machine"`
	// Failures say why the run is not good; none if it is.
	Failures []string `json:"failures"`
	// Replay is the file with the schedule that leads to the first dropped call.
	Replay  string       `json:"replay,omitempty"`
	Account Account      `json:"account"`
	Slopes  []Slope      `json:"slopes"`
	Steps   []StepRecord `json:"steps"`
	Pods    []PodCount   `json:"pods"`
	Usage   []Usage      `json:"usage"`
	Calls   []CallRecord `json:"calls"`
}

// Done counts the steps that were done, and those that were passed over.
func (r Report) Done(faults bool) (done, passed int) {
	for _, s := range r.Steps {
		switch {
		case s.Fault() != faults:
		case s.Passed:
			passed++
		default:
			done++
		}
	}
	return done, passed
}

// Missing lists the kinds of steps that were never done: the run was too short for them, or they were passed over each time. A
// run without any fault shall have none.
func (r Report) Missing() []Kind {
	kinds := Disruptions()
	if slices.ContainsFunc(r.Steps, StepRecord.Fault) {
		kinds = append(kinds, Faults()...)
	}
	return slices.DeleteFunc(kinds, func(kind Kind) bool {
		return slices.ContainsFunc(r.Steps, func(s StepRecord) bool { return s.Kind == kind && !s.Passed })
	})
}

// Judge says what is wrong with a run, in sentences.
func (a Account) Judge() []string {
	var wrong []string
	if n := a.Outcomes[Dropped]; n > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %s dropped", n, many(a.Calls, "call")))
	}
	if a.Answerable > 0 {
		wrong = append(wrong, many(a.Answerable, "caller")+" gave up although an agent could have answered")
	}
	if a.Undone > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %s did not end", a.Undone, many(len(a.Tails), "drain")))
	}
	return wrong
}

// JudgeTails says which drains were longer than their longest call by more than is allowed. A drain with a fault in that time is
// not held to it. A run in which all of them had one shows nothing, which is wrong, too.
func (a Account) JudgeTails(most Offset) []string {
	var wrong []string
	for _, t := range a.Tails {
		if t.Done && !t.Fault && t.Tail > most {
			wrong = append(wrong, fmt.Sprintf("the drain of %s at %s was %s longer than its longest call, without a fault; %s is allowed", t.Node, short(t.Began), short(t.Tail), short(most)))
		}
	}
	if a.Undisturbed.Count == 0 {
		wrong = append(wrong, fmt.Sprintf("none of %s ended without a fault after its longest call, so nothing is known about the limit of %s; use a longer run, or another seed", many(len(a.Tails), "drain"), short(most)))
	}
	return wrong
}

// Counts says how much of the schedule was done.
func (r Report) Counts() string {
	disruptions, withoutRoom := r.Done(false)
	faults, impossible := r.Done(true)
	return fmt.Sprintf("%s and %s done, %d and %d passed over", many(disruptions, "disruption"), many(faults, "fault"), withoutRoom, impossible)
}

// String is the account in a few lines, for a log.
func (a Account) String() string {
	var outcomes []string
	for _, o := range Outcomes() {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", a.Outcomes[o], o))
	}
	return fmt.Sprintf("%s, %d at once at most: %s; %d answered after more than %s; answered within %s (half), %s (99 of 100), %s (all)\n",
		many(a.Calls, "call"), a.Most, strings.Join(outcomes, ", "), a.Late, short(LateAfter), short(a.Answer.Median), short(a.Answer.P99), short(a.Answer.Most)) +
		fmt.Sprintf("%s ended, %d did not; longer than their longest call by %s (half), %s (99 of 100), %s (all); the %d without a fault in that time by %s, %s, %s",
			many(a.Tail.Count, "drain"), a.Undone, short(a.Tail.Median), short(a.Tail.P99), short(a.Tail.Most),
			a.Undisturbed.Count, short(a.Undisturbed.Median), short(a.Undisturbed.P99), short(a.Undisturbed.Most))
}

// many is a number of things.
func many(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// short is a length of time to the tenth of a second.
func short(o Offset) string { return time.Duration(o).Round(100 * time.Millisecond).String() }

// Write writes the report into a folder, as JSON and as a page, and returns the paths of both.
func (r Report) Write(dir, name string) (data, page string, err error) {
	data, page = filepath.Join(dir, name+".json"), filepath.Join(dir, name+".html")
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return "", "", fmt.Errorf("cannot encode the report: %w", err)
	}
	html, err := r.Page()
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", fmt.Errorf("cannot keep the report: %w", err)
	}
	for path, text := range map[string][]byte{data: text, page: html} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return "", "", fmt.Errorf("cannot keep the report: %w", err)
		}
	}
	return data, page, nil
}
