// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// sideView is the visible state of a side at one moment.
type sideView struct {
	Title, Node, Other         string // Node is drained
	Guarded                    bool
	Calls, Dropped, Unanswered int
	Over                       bool
	Took                       time.Duration
	Pods                       []podRow
}

// drainTable is the second act for a terminal of a size. Zero is any size.
func drainTable(at time.Duration, sides []sideView, width, height int) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "callguard demo, second act: kubectl drain in mid-call  %s  (Ctrl-C ends it)\n", clock(at))
	for _, v := range sides {
		_, _ = fmt.Fprintf(&b, "\n%-16s  calls up %d, lost %d, unanswered %d\n", v.Title, v.Calls, v.Dropped, v.Unanswered)
		_, _ = fmt.Fprintf(&b, "  %-8s%s\n", v.Node, v.podsOn(v.Node))
		_, _ = fmt.Fprintf(&b, "  %-8s%s\n", v.Other, v.podsOn(v.Other))
		_, _ = fmt.Fprintf(&b, "  drain   %s\n", v.drain())
	}
	return fit(b.String(), width, height)
}

// podsOn lists a node's pods, each with a dot for every call.
func (v sideView) podsOn(node string) string {
	var list []string
	for _, p := range v.Pods {
		if p.Node == node {
			list = append(list, p.State+" "+dots(p.Calls))
		}
	}
	if len(list) == 0 {
		return "empty"
	}
	return strings.Join(list, "  ")
}

func dots(r reading) string {
	switch {
	case r.Why != "":
		return "?"
	case r.N == 0:
		return "-"
	default:
		return strings.Repeat("●", int(r.N))
	}
}

// drain describes the progress of the drain, and what it waits for.
func (v sideView) drain() string {
	if v.Over {
		return "ended after " + clock(v.Took)
	}
	calls, pods, released := 0, 0, 0
	for _, p := range v.Pods {
		if p.Node != v.Node {
			continue
		}
		pods++
		calls += int(p.Calls.N)
		if p.State == string(call.Released) {
			released++
		}
	}
	switch {
	case pods == 0:
		return "waits: its pods are gone; kubectl looks every 5 s"
	case calls > 0:
		return fmt.Sprintf("waits for %d calls in %d pods", calls, pods)
	case !v.Guarded:
		return fmt.Sprintf("waits: %d pods without calls are ending", pods)
	case released > 0:
		return fmt.Sprintf("waits: %d of %d idle pods may go; kubectl tries every 5 s", released, pods)
	default:
		return "waits: idle; callguard makes sure no call is coming"
	}
}

// drainLines are the sides without the time: of each its calls, and its drain.
func drainLines(sides []sideView) []string {
	var lines []string
	for _, v := range sides {
		lines = append(lines,
			fmt.Sprintf("%s: calls up %d, lost %d, unanswered %d", v.Title, v.Calls, v.Dropped, v.Unanswered),
			fmt.Sprintf("%s: drain %s", v.Title, v.drain()))
	}
	return lines
}

// outcome is the result of a side's drain.
type outcome struct {
	title, node                string
	guarded                    bool
	calls, dropped, unanswered int
	over                       bool
	took                       time.Duration // the drain, when it is over
	fault                      error
}

func outcomes(sides []*side) []outcome {
	var list []outcome
	for _, h := range sides {
		r := h.callers.Report()
		h.mu.Lock()
		list = append(list, outcome{
			title: h.title, node: h.node, guarded: h.guarded,
			calls: r.Dialled, dropped: len(r.Dropped), unanswered: r.Unanswered, over: h.over, took: h.took, fault: h.fault,
		})
		h.mu.Unlock()
	}
	return list
}

// drainSummary describes the result of the second act.
func drainSummary(sides []outcome) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%-24s%12s%12s%12s\n", "a drain in mid-call", "calls lost", "unanswered", "node empty")
	for _, o := range sides {
		_, _ = fmt.Fprintf(&b, "%-24s%12s%12d%12s\n", o.title, fmt.Sprintf("%d of %d", o.dropped, o.calls), o.unanswered, o.emptied())
	}
	_, _ = fmt.Fprintf(&b, `
Callers talk on for %d s, and new ones dial while the node is drained. A new
agent takes its first call after %s s. With callguard, others are ready before
a pod takes no more calls; an eviction ends that at once, whatever the grace.
An hour of grace keeps these calls, too, while the hour lasts and whoever
removes the node grants it: see docs/node-autoscalers.md.
`, int(talk.Seconds()), startSeconds)
	return b.String()
}

// emptied is when the node was empty.
func (o outcome) emptied() string {
	if !o.over {
		return "not yet"
	}
	return "after " + clock(o.took)
}

// judgeDrain lists everything that is wrong.
func judgeDrain(sides []outcome) error {
	var errs []error
	lost := 0
	for _, o := range sides {
		if o.fault != nil {
			errs = append(errs, fmt.Errorf("%s: the drain of %s failed: %w", o.title, o.node, o.fault))
		}
		if !o.guarded {
			lost += o.dropped
			continue
		}
		if o.dropped > 0 || o.unanswered > 0 {
			errs = append(errs, fmt.Errorf("%s: %d calls were lost and %d not answered", o.title, o.dropped, o.unanswered))
		}
	}
	if lost == 0 {
		errs = append(errs, errors.New("no call was lost without callguard, so there is nothing to compare with"))
	}
	return errors.Join(errs...)
}
