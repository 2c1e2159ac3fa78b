// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// aRun is a run of ten minutes with a call of every outcome.
func aRun() Report {
	r := Report{
		Began: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Seed: 42, Rate: 1, Pace: 1, Nodes: Nodes, Duration: seconds(600), Lasted: seconds(640),
		Machine: Machine{System: "linux/amd64", Processors: 2, Go: "go1.26", Kubernetes: "v1.36.0", LiveKit: "v1.9.0", Revision: "0123456"},
		Calls: []CallRecord{
			{N: 0, Workload: Python, Pod: "agent-a", Node: "node-1", Began: 0, Answered: true, Answer: seconds(1), Length: seconds(99), Ended: seconds(100)},
			{N: 1, Workload: Node, Pod: "agent-b", Node: "node-2", Began: seconds(50), Answered: true, Answer: seconds(1), Length: seconds(300), Ended: seconds(200), Cause: "killed at the end of <the> grace"},
			{N: 2, Workload: NodeGated, Began: seconds(60), Length: seconds(10), Ended: seconds(120), Able: true},
		},
		Steps: []StepRecord{
			{Step: Step{At: seconds(30), Kind: DrainNode, Node: 1, Count: 1}, Ended: seconds(110), Said: "node-1"},
			{Step: Step{At: seconds(40), Kind: DrainNode, Node: 1, Count: 1}, Ended: seconds(40), Said: "too few nodes are open", Passed: true},
			{Step: Step{At: seconds(90), Kind: KillGuard}, Ended: seconds(103)},
		},
		Pods:  []PodCount{{At: 0, Serving: 12}, {At: seconds(320), Serving: 10, Aside: 1, Draining: 3, Released: 1}, {At: seconds(640), Serving: 12}},
		Usage: []Usage{{At: 0, Process: "drain-guard 7000", Memory: 40 << 20, Goroutines: 60}, {At: seconds(640), Process: "drain-guard 7000", Memory: 44 << 20, Goroutines: 66}},
	}
	for n := range 10 {
		r.Usage = append(r.Usage, Usage{At: seconds(float64(60 * n)), Process: "metrics-adapter 7001", Memory: 30 << 20, Goroutines: 50 + float64(n)})
	}
	r.Account = Sum(r.Calls, []DrainRecord{{Node: "node-1", Began: seconds(30), Ended: seconds(108), Done: true, Tries: 1}, {Node: "node-2", Began: seconds(300), Ended: seconds(640), Tries: 1}}, r.Steps)
	r.Failures, r.Slopes, r.Replay = r.Account.Judge(), Slopes(r.Usage), "replay-42.json"
	return r
}

// textOf is what people read on a page, and its elements by name.
func textOf(t *testing.T, page []byte) (text string, elements map[string]int) {
	t.Helper()
	elements = map[string]int{}
	var words, open []string
	reader := xml.NewDecoder(strings.NewReader(string(page)))
	reader.Strict, reader.AutoClose, reader.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		token, err := reader.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements[token.Name.Local]++
			open = append(open, token.Name.Local)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 && open[len(open)-1] != "style" {
				words = append(words, strings.Fields(string(token))...)
			}
		}
	}
	return strings.Join(words, " "), elements
}

func TestPage(t *testing.T) {
	t.Parallel()
	page, err := aRun().Page()
	if err != nil {
		t.Fatal(err)
	}
	text, elements := textOf(t, page)
	for _, says := range []string{
		"Soak of callguard, seed 42: failed",
		"1 of 3 calls dropped",
		"1 caller gave up although an agent could have answered",
		"1 of 2 drains did not end",
		"replay-42.json",
		"completed 1", "dropped 1", "unanswered 1",
		"10 nodes", "2 processors, linux/amd64, go1.26, Kubernetes v1.36.0, LiveKit v1.9.0, callguard 0123456",
		"Nodes and agents' processes are simulated",
		"a drain beyond its longest call 1 8s 8s 8s 8s", "of those without a fault in that time 0 0s",
		"1 disruption and 1 fault; passed over, because they could not be done then: 1 and 0",
		"Did not come: drain of several nodes; cordon, taken back; rollout;", "LiveKit slow; kube-apiserver killed",
		"drain at 30s, until 1m50s; node-1",
		"guard that leads killed at 1m30s",
		"node-1 from 30s to 1m48s, 1 call, the last until 1m40s, then 8s more, with a fault in that time",
		"node-2, not ended",
		"metrics-adapter 7001: up to 30 MiB and 59 goroutines; +0.0 MiB and +60.0 goroutines an hour, over 8m0s",
		"drain-guard 7000: up to 44 MiB and 66 goroutines; it was seen too shortly for a slope",
		"1 node dropped 50s 3m20s agent-b node-2 killed at the end of <the> grace",
		"2 node-gated unanswered, an agent could have answered",
	} {
		if !strings.Contains(text, says) {
			t.Errorf("the page does not say %q:\n%s", says, text)
		}
	}
	if elements["svg"] != 4 || elements["polygon"] != 5 {
		t.Errorf("the page has %d drawings with %d areas; want the time line, the drains and two processes, and five states of pods", elements["svg"], elements["polygon"])
	}
	for _, outside := range []string{"script", "link", "img", "iframe"} {
		if elements[outside] > 0 {
			t.Errorf("the page has a <%s>; it shall need nothing else", outside)
		}
	}
	if found := regexp.MustCompile(`https?://|url\(|@import`).Find(page); found != nil {
		t.Errorf("the page refers to %q; it shall need nothing else", found)
	}
	if strings.Contains(string(page), "ZgotmplZ") {
		t.Error("the template has left something out as unsafe")
	}
}

// TestDrawing has what happened where and when it happened.
func TestDrawing(t *testing.T) {
	t.Parallel()
	p := aRun().page()
	var times []string
	for _, tick := range p.TimeLine.Ticks {
		times = append(times, tick.Text)
	}
	first, last := p.TimeLine.Ticks[0], p.TimeLine.Ticks[len(times)-1]
	if want := "0s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m"; strings.Join(times, " ") != want || first.X != pageLeft || last.X != 1107.5 {
		t.Errorf("the time line is marked %s, from %g to %g; want %s, from %g to 10 of 10m40s", times, first.X, last.X, want, pageLeft)
	}
	if want := "170.0,91.3 "; !strings.HasPrefix(p.TimeLine.Calls, want) { // one of up to three calls
		t.Errorf("the calls begin at %.20s; want %s", p.TimeLine.Calls, want)
	}
	drain := p.Drains.Rows[0]
	if want := (drainRow{Y: 18, TextY: 29, X: 216.875, Held: 109.375, TailX: 326.25, Tail: 12.5, Name: "node-1", Title: drain.Title, Done: true}); drain != want {
		t.Errorf("the first drain is drawn as %+v; want %+v", drain, want)
	}
}

func TestGoodPage(t *testing.T) {
	t.Parallel()
	r := aRun()
	r.Calls = r.Calls[:1]
	r.Account = Sum(r.Calls, nil, nil)
	r.Failures, r.Replay = r.Account.Judge(), ""
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := textOf(t, page)
	if !strings.Contains(text, "seed 42: no call dropped") || strings.Contains(text, "failed") || strings.Contains(text, "The schedule that leads to it") {
		t.Errorf("the page of a good run says:\n%s", text)
	}
}

// TestEmptyReport is of a run that was interrupted at its start.
func TestEmptyReport(t *testing.T) {
	t.Parallel()
	if _, err := (Report{}).Page(); err != nil {
		t.Error(err)
	}
}

func TestReportFiles(t *testing.T) {
	t.Parallel()
	r := aRun()
	data, page, err := r.Write(t.TempDir()+"/new", "soak-42")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	var read Report
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, read); diff != "" {
		t.Errorf("the JSON says something else (-want +got):\n%s", diff)
	}
	if shown, err := os.ReadFile(page); err != nil || !strings.HasPrefix(string(shown), "<!DOCTYPE html>") {
		t.Errorf("the page is %.50q: %v", shown, err)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	lost := CallRecord{Answered: true, Length: seconds(20), Ended: seconds(3), Cause: "agent process crashed", Lost: LostWithAgent}
	unable := CallRecord{Length: seconds(20), Ended: seconds(60)}
	if wrong := Sum([]CallRecord{lost, unable}, nil, nil).Judge(); len(wrong) > 0 {
		t.Errorf("a call lost with an agent that was killed, and one without any agent, fail a run: %v", wrong)
	}
	want := []string{"1 of 3 calls dropped", "1 caller gave up although an agent could have answered", "1 of 2 drains did not end"}
	if diff := cmp.Diff(want, aRun().Failures); diff != "" {
		t.Errorf("the failures are wrong (-want +got):\n%s", diff)
	}
}
