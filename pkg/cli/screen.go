// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// drawPace is how often a screen is drawn: it follows a terminal that changes its size,
	// and the time that is left goes down.
	drawPace = time.Second
	// barLength is how many characters a bar has.
	barLength = 20
)

// screen tells of a drain on a terminal. What happens once scrolls by; below, each node has
// a bar and each pod a line, which are drawn in place.
type screen struct {
	out *plain
	now func() time.Time

	mu    sync.Mutex
	live  bool
	nodes []*shownNode // in the order in which they were named
	// ends is what was foretold, at a time.
	ends   Ends
	endsAt time.Time
	drawn  string // what stands on the terminal below what has scrolled by
	width  int    // for which it was drawn
}

// shownNode is what a screen shows of a node that is not empty.
type shownNode struct {
	name     string
	left, of int
	rest     string            // what is left, in words
	pods     map[string]string // what is said of each, by its name
}

// tell implements teller.
func (s *screen) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line := s.take(e); line != "" {
		s.erase()
		_, _ = io.WriteString(s.out, line)
	}
	s.draw()
}

// take enters an event, and returns the line that scrolls by, if there is one.
func (s *screen) take(e Event) string {
	i := slices.IndexFunc(s.nodes, func(n *shownNode) bool { return n.name == e.Node })
	if e.Event == begins {
		s.nodes = append(s.nodes, &shownNode{name: e.Node, left: e.Left.Pods, of: e.Left.Of, rest: e.Text, pods: map[string]string{}})
	}
	switch {
	case e.Event == foretold && e.CallsOver.MedianSeconds != nil:
		s.ends, s.endsAt = *e.CallsOver, e.Time
		return ""
	case i < 0:
		return e.line()
	}
	n := s.nodes[i]
	if e.Event == stands {
		n.pods[e.Pod.Namespace+"/"+e.Pod.Name] = e.Text
		return ""
	}
	if e.Event == remains {
		n.left, n.of, n.rest = e.Left.Pods, e.Left.Of, strings.TrimPrefix(e.Text, "node/"+n.name+": ")
		return ""
	}
	if e.Event == leaves {
		delete(n.pods, e.Pod.Namespace+"/"+e.Pod.Name)
	}
	if e.Event == drained {
		s.nodes = slices.Delete(s.nodes, i, i+1)
	}
	return e.line()
}

// run implements teller.
func (s *screen) run(ctx context.Context) {
	tick := time.NewTicker(drawPace)
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.live = ctx.Err() == nil
		if s.live {
			s.draw()
		} else {
			s.erase()
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			if !s.live {
				return
			}
		case <-tick.C:
		}
	}
}

// draw draws what has changed, or all where the terminal has another size.
func (s *screen) draw() {
	if !s.live {
		return
	}
	width, height := s.out.size()
	frame := s.frame(width, height)
	if frame == s.drawn && width == s.width {
		return
	}
	s.erase()
	_, _ = io.WriteString(s.out, frame)
	s.drawn, s.width = frame, width
}

// erase takes away what stands on the terminal: up to where it begins, and all from there.
func (s *screen) erase() {
	if s.drawn == "" {
		return
	}
	width, height := s.out.size()
	up := min(rowsOf(s.drawn, width), max(1, height-1))
	_, _ = fmt.Fprintf(s.out.to, "\r\x1b[%dA\x1b[J", up) // and whatever somebody has typed
	s.drawn = ""
}

// rowsOf is how many rows a text takes on a terminal: one that has become narrower since it
// was written has wrapped its lines.
func rowsOf(text string, width int) int {
	rows := 0
	for line := range strings.Lines(text) {
		rows++
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); width > 0 && n > width {
			rows += (n - 1) / width
		}
	}
	return rows
}

// frame is what stands on a terminal of a size, which has a line more for the cursor. Where
// it has no room for all that is said, lines are cut.
func (s *screen) frame(width, height int) string {
	whole := s.layout(func(line string) string { return folded(line+"\n", width) })
	if strings.Count(whole, "\n") < height {
		return whole
	}
	return cut(s.layout(func(line string) string { return shortened(line, width) + "\n" }), height-1)
}

// layout has the nodes first, then when their calls are over, then the pods.
func (s *screen) layout(fit func(line string) string) string {
	var b strings.Builder
	for _, n := range s.nodes {
		b.WriteString(fit(fmt.Sprintf("%s  node/%s: %s", bar(n.of-n.left, n.of), n.name, n.rest)))
	}
	if s.ends.MedianSeconds != nil && len(s.nodes) > 0 {
		b.WriteString(fit(s.ends.later(s.now().Sub(s.endsAt)).short(s.now())))
	}
	for _, n := range s.nodes {
		for _, pod := range slices.Sorted(maps.Keys(n.pods)) {
			b.WriteString(fit("  " + n.pods[pod]))
		}
	}
	return b.String()
}

// bar shows how much is done.
func bar(done, of int) string {
	full := 0
	if of > 0 {
		full = barLength * done / of
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barLength-full) + "]"
}

// shortened is a line that is no wider than a terminal.
func shortened(text string, width int) string {
	if runes := []rune(text); width > 1 && len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return text
}
