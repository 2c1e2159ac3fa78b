// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// drainTable is the second act for a terminal of a size. Zero is any size.
func drainTable(at time.Duration, sides []sideView, width, height int) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "callguard demo, second act  %s  (Ctrl-C ends it)\n", clock(at))
	rows := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range sides {
		_, _ = fmt.Fprintf(rows, "\n%s: calls up %d, dropped %d; kubectl drain %s %s\n", v.Title, v.Calls, v.Dropped, v.Node, v.drain())
		_, _ = fmt.Fprintln(rows, "POD\tNODE\tPHASE\tSTATE\tCALLS")
		for _, p := range v.Pods {
			_, _ = fmt.Fprintf(rows, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Node, p.Phase, p.State, bar(p.Calls))
		}
	}
	_ = rows.Flush() // a Builder takes everything
	return fit(b.String(), width, height)
}

// drain says how far the drain is.
func (v sideView) drain() string {
	if v.Over {
		return "ended after " + clock(v.Took)
	}
	return "waits"
}

// drainLine is both sides without the time, in one line.
func drainLine(sides []sideView) string {
	var parts []string
	for _, v := range sides {
		parts = append(parts, fmt.Sprintf("%s: calls %d, dropped %d, pods %d, drain %s", v.Title, v.Calls, v.Dropped, len(v.Pods), v.drain()))
	}
	return strings.Join(parts, "   ")
}

// outcome is how a side's drain went.
type outcome struct {
	title, node    string
	calls, dropped int
	took           time.Duration
	fault          error
}

func (h *side) outcome() outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.callers.Report()
	return outcome{title: h.title, node: h.node, calls: r.Answered, dropped: len(r.Dropped), took: h.took, fault: h.fault}
}

// drainSummary says how the second act went.
func drainSummary(sides []*side) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "a node drained in mid-call; its agents have %d s to end, its callers talk on for %s\n", kubernetesGrace, talk)
	for _, half := range sides {
		o := half.outcome()
		_, _ = fmt.Fprintf(&b, "%-22s%d of %d calls dropped; the drain took %s\n", o.title, o.dropped, o.calls, clock(o.took))
	}
	return b.String()
}

// judgeDrain names everything that should not be.
func judgeDrain(sides []*side) error {
	var errs []error
	for _, half := range sides {
		o := half.outcome()
		if o.fault != nil {
			errs = append(errs, fmt.Errorf("%s, the drain of %s failed: %w", o.title, o.node, o.fault))
		}
		switch {
		case half.guarded && o.dropped > 0:
			errs = append(errs, fmt.Errorf("%s, %d calls were dropped", o.title, o.dropped))
		case !half.guarded && o.dropped == 0:
			errs = append(errs, fmt.Errorf("%s, no call was dropped, so there is nothing to compare with", o.title))
		}
	}
	return errors.Join(errs...)
}
