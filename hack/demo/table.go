// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// table is a snapshot for a terminal of a size. Zero is any size.
func table(s snapshot, width, height int) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "callguard demo  %s  (Ctrl-C ends it)\n\n", clock(s.At))
	head := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(head, "calls up\t%d\n", s.Calls)
	_, _ = fmt.Fprintf(head, "active_calls\t%s\n", s.Active)
	_, _ = fmt.Fprintf(head, "autoscaler\t%d replicas, wants %d; %s calls each; ScalingActive %s\n", s.Scaling.Current, s.Scaling.Desired, s.Scaling.Target, s.Scaling.Active)
	_, _ = fmt.Fprintf(head, "dropped calls\t%d\n", s.Dropped)
	_ = head.Flush() // a Builder takes everything
	b.WriteString("\n")
	rows := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(rows, "POD\tNODE\tPHASE\tSTATE\tCALLS")
	for _, p := range s.Pods {
		_, _ = fmt.Fprintf(rows, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Node, p.Phase, p.State, bar(p.Calls))
	}
	_ = rows.Flush()
	return fit(b.String(), width, height)
}

// bar draws a number of calls, readable from a distance.
func bar(r reading) string {
	if r.Why != "" {
		return "?"
	}
	return strings.TrimRight(fmt.Sprintf("%2d %s", r.N, strings.Repeat("●", int(r.N))), " ")
}

// fit cuts what would wrap or scroll.
func fit(text string, width, height int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if height > 2 && len(lines) > height-1 {
		hidden := len(lines) - (height - 2)
		lines = append(lines[:height-2], fmt.Sprintf("… %d more", hidden))
	}
	for i, line := range lines {
		if runes := []rune(line); width > 1 && len(runes) > width {
			lines[i] = string(runes[:width-1]) + "…"
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// line is a snapshot without its time, in one line.
func line(s snapshot) string {
	ending := 0
	for _, p := range s.Pods {
		if p.Phase == terminating {
			ending++
		}
	}
	text := fmt.Sprintf("calls %2d  active_calls %2s  replicas %d", s.Calls, s.Active, s.Scaling.Current)
	if s.Scaling.Desired != s.Scaling.Current {
		text += fmt.Sprintf(", wants %d", s.Scaling.Desired)
	}
	text += fmt.Sprintf("  pods %d", len(s.Pods))
	if ending > 0 {
		text += fmt.Sprintf(", %d finishing", ending)
	}
	text += fmt.Sprintf("  lost %d", s.Dropped)
	if s.Scaling.Active != "True" {
		text += "  ScalingActive " + s.Scaling.Active
	}
	return strings.TrimSuffix(fit(text, columns-len("00:00  "), 0), "\n")
}

// clock writes a time as minutes and seconds.
func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
