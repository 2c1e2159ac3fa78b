// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

// The drawing, in units of its own.
const (
	pageWidth  = 1180.0
	pageLeft   = 170.0 // room for names
	pageRight  = 10.0
	panel      = 110.0
	row        = 15.0
	axis       = 18.0
	mostPoints = 600
	mostTicks  = 12
)

// page is what the template shows: the report, and its drawings as coordinates.
type page struct {
	Report

	Width, Left, Right float64 // Right is where the time line ends
	Good               bool
	Disruptions        int
	PassedDisruptions  int
	Faulted            int
	PassedFaults       int
	LateAfter          Offset
	OutcomeRows        []outcomeRow
	TimeLine           timeLine
	Drains             drainChart
	Usages             []usageChart
}

type outcomeRow struct {
	Name  Outcome
	Count int
}

// timeLine has everything that happened over the same time.
type timeLine struct {
	Height   float64
	Ticks    []tick
	CallsTop float64
	Calls    string // points
	MostUp   int
	PodsTop  float64
	MostPods int
	Pods     []area
	Rows     []stepRow
}

type tick struct {
	X            float64
	Text, Anchor string
}

type area struct{ Name, Class, Points string }

type stepRow struct {
	Y, TextY float64
	Name     Kind
	Fault    bool
	Marks    []mark
}

type mark struct {
	X, Width float64
	Passed   bool
	Title    string
}

// drainChart has a bar for each drain: its length up to its last call, and the tail.
type drainChart struct {
	Height float64
	Ticks  []tick
	Rows   []drainRow
}

type drainRow struct {
	Y, TextY, X, Held, TailX, Tail float64
	Name, Title                    string
	Done                           bool
}

// usageChart is the usage of one process.
type usageChart struct {
	Process             string
	Memory, Goroutines  string // points
	MostMemory, MostRun string
	Slope               string
}

// Page is the report as one page of HTML that needs nothing else.
func (r Report) Page() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"short": short, "many": many}).Parse(pageText)
	if err != nil {
		return nil, fmt.Errorf("cannot read the page's template: %w", err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, r.page()); err != nil {
		return nil, fmt.Errorf("cannot write the page: %w", err)
	}
	return text.Bytes(), nil
}

func (r Report) page() page {
	p := page{Report: r, Width: pageWidth, Left: pageLeft, Right: pageWidth - pageRight, Good: len(r.Failures) == 0, LateAfter: LateAfter}
	p.Disruptions, p.PassedDisruptions = r.Done(false)
	p.Faulted, p.PassedFaults = r.Done(true)
	for _, o := range Outcomes() {
		p.OutcomeRows = append(p.OutcomeRows, outcomeRow{o, r.Account.Outcomes[o]})
	}
	p.TimeLine, p.Drains, p.Usages = r.timeLine(), r.drainChart(), r.usageCharts()
	return p
}

// x is where a moment is.
func (r Report) x(at Offset) float64 {
	if r.Lasted <= 0 {
		return pageLeft
	}
	return pageLeft + (pageWidth-pageLeft-pageRight)*min(1, at.Seconds()/r.Lasted.Seconds())
}

// ticks are at round times, so many that people can read them.
func (r Report) ticks() []tick {
	steps := []time.Duration{5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour}
	distance := 2 * time.Hour
	for _, step := range slices.Backward(steps) {
		if time.Duration(r.Lasted)/step <= mostTicks {
			distance = step
		}
	}
	list := []tick{{X: r.x(0), Text: "0s", Anchor: "middle"}}
	for at := distance; at <= time.Duration(r.Lasted); at += distance {
		t := tick{X: r.x(Offset(at)), Text: at.String(), Anchor: "middle"}
		if at%time.Minute == 0 {
			t.Text = fmt.Sprintf("%dm", at/time.Minute)
		}
		if t.X > pageWidth-3*pageRight {
			t.Anchor = "end" // else it is cut off
		}
		list = append(list, t)
	}
	return list
}

func (r Report) timeLine() timeLine {
	l := timeLine{Ticks: r.ticks(), CallsTop: axis, PodsTop: axis + panel + row, MostUp: max(1, r.Account.Most)}
	var points []string
	for n := range mostPoints + 1 {
		at := r.Lasted * Offset(n) / mostPoints
		up := 0
		for _, c := range r.Calls {
			if c.Began <= at && at < c.Ended {
				up++
			}
		}
		points = append(points, point(r.x(at), l.CallsTop+panel*(1-float64(up)/float64(l.MostUp))))
	}
	l.Calls = strings.Join(points, " ")
	l.Pods, l.MostPods = r.podAreas(l.PodsTop)
	y := l.PodsTop + panel + row
	for _, kind := range slices.Concat(Disruptions(), Faults()) {
		line := stepRow{Y: y, TextY: y + row - 4, Name: kind, Fault: slices.Contains(Faults(), kind)}
		for _, s := range r.Steps {
			if s.Kind == kind {
				x := r.x(s.At)
				line.Marks = append(line.Marks, mark{X: x, Width: max(2, r.x(s.Ended)-x), Passed: s.Passed, Title: s.title()})
			}
		}
		l.Rows = append(l.Rows, line)
		y += row
	}
	l.Height = y + axis
	return l
}

// title is what a step shows when it is pointed at.
func (s StepRecord) title() string {
	parts := []string{fmt.Sprintf("%s at %s, until %s", s.Kind, short(s.At), short(s.Ended)), s.Workload, s.Said}
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "; ")
}

// podAreas stacks the pods of each state.
func (r Report) podAreas(top float64) (areas []area, most int) {
	states := []struct {
		name, class string
		of          func(PodCount) int
	}{
		{"serving", "serving", func(c PodCount) int { return c.Serving }},
		{"not ready yet", "notready", func(c PodCount) int { return c.NotReady }},
		{"set aside", "aside", func(c PodCount) int { return c.Aside }},
		{"draining", "draining", func(c PodCount) int { return c.Draining }},
		{"released", "released", func(c PodCount) int { return c.Released }},
	}
	counts := thin(r.Pods)
	most = 1
	for _, c := range counts {
		most = max(most, c.Serving+c.NotReady+c.Aside+c.Draining+c.Released)
	}
	if len(counts) == 0 {
		return nil, most
	}
	below := make([]int, len(counts))
	for _, state := range states {
		var upper, lower []string
		for i, c := range counts {
			x := r.x(c.At)
			lower = append(lower, point(x, top+panel*(1-float64(below[i])/float64(most))))
			below[i] += state.of(c)
			upper = append(upper, point(x, top+panel*(1-float64(below[i])/float64(most))))
		}
		slices.Reverse(lower)
		areas = append(areas, area{state.name, state.class, strings.Join(append(upper, lower...), " ")})
	}
	return areas, most
}

func (r Report) drainChart() drainChart {
	c := drainChart{Ticks: r.ticks()}
	y := axis
	for _, d := range r.Account.Tails {
		begin, last, end := r.x(d.Began), r.x(max(d.Began, min(d.LastCall, d.Ended))), r.x(d.Ended)
		line := drainRow{
			Y: y, TextY: y + row - 4, X: begin, Held: last - begin, TailX: last, Tail: max(1, end-last), Name: d.Node, Done: d.Done,
			Title: fmt.Sprintf("%s from %s to %s, %s, the last until %s, then %s more", d.Node, short(d.Began), short(d.Ended), many(d.Calls, "call"), short(d.LastCall), short(d.Tail)),
		}
		if d.Fault {
			line.Title += ", with a fault in that time"
		}
		if !d.Done {
			line.Title += "; it did not end"
		}
		c.Rows = append(c.Rows, line)
		y += row
	}
	c.Height = y + axis
	return c
}

func (r Report) usageCharts() []usageChart {
	of, order := map[string][]Usage{}, []string(nil)
	for _, u := range r.Usage {
		if of[u.Process] == nil {
			order = append(order, u.Process)
		}
		of[u.Process] = append(of[u.Process], u)
	}
	var charts []usageChart
	for _, process := range order {
		list := thin(of[process])
		var mostMemory, mostRun float64
		for _, u := range of[process] {
			mostMemory, mostRun = max(mostMemory, u.Memory), max(mostRun, u.Goroutines)
		}
		var memory, goroutines []string
		for _, u := range list {
			memory = append(memory, point(r.x(u.At), axis+panel*(1-u.Memory/max(1, mostMemory))))
			goroutines = append(goroutines, point(r.x(u.At), axis+panel*(1-u.Goroutines/max(1, mostRun))))
		}
		chart := usageChart{
			Process: process, Memory: strings.Join(memory, " "), Goroutines: strings.Join(goroutines, " "),
			MostMemory: mebibytes(mostMemory), MostRun: fmt.Sprintf("%.0f", mostRun), Slope: "it was seen too shortly for a slope",
		}
		for _, s := range r.Slopes {
			if s.Process == process {
				chart.Slope = fmt.Sprintf("%+.1f MiB and %+.1f goroutines an hour, over %s", s.MemoryPerHour/(1<<20), s.GoroutinesPerHour, short(s.To-s.From))
			}
		}
		charts = append(charts, chart)
	}
	return charts
}

func mebibytes(bytes float64) string { return fmt.Sprintf("%.0f MiB", bytes/(1<<20)) }

func point(x, y float64) string { return fmt.Sprintf("%.1f,%.1f", x, y) }

// thin leaves out values evenly, so that a drawing has no more than it can show. The last one stays.
func thin[T any](list []T) []T {
	every := len(list)/mostPoints + 1
	var kept []T
	for i, v := range list {
		if i%every == 0 || i == len(list)-1 {
			kept = append(kept, v)
		}
	}
	return kept
}
