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
	// drawPace is how often the screen is drawn, because the terminal's size and the remaining
	// time change.
	drawPace = time.Second
	// barLength is how many characters a bar has.
	barLength = 20
)

// screen shows a drain on a terminal. Events scroll by; below them each node has a bar and
// each pod a line, which are drawn in place.
type screen struct {
	out *plain
	now func() time.Time

	mu    sync.Mutex
	live  bool
	nodes []*shownNode // in the order in which they were named
	// ends is the latest estimate.
	ends   Ends
	endsAt time.Time
	drawn  string // the text on the terminal below the scrolled lines
	width  int    // the terminal's width at that time
}

// shownNode is what the screen shows about a node that is not empty.
type shownNode struct {
	name     string
	left, of int
	rest     string            // text about what is left
	pods     map[string]string // text about each pod, by its name
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

// take records an event, and returns the line that scrolls by, if there is one.
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

// draw draws what has changed, or everything if the terminal's size has changed.
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

// erase removes the drawn text: it moves up to its beginning, and clears everything from
// there.
func (s *screen) erase() {
	if s.drawn == "" {
		return
	}
	width, height := s.out.size()
	up := min(rowsOf(s.drawn, width), max(1, height-1))
	_, _ = fmt.Fprintf(s.out.to, "\r\x1b[%dA\x1b[J", up) // this also removes what somebody has typed
	s.drawn = ""
}

// rowsOf returns how many rows a text takes on a terminal. If the terminal has become
// narrower, it has wrapped lines.
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

// frame returns the text for a terminal of a size; one line is left for the cursor. If
// there is not enough room, lines are left out.
func (s *screen) frame(width, height int) string {
	whole := s.layout(func(line string) string { return folded(line+"\n", width) })
	if strings.Count(whole, "\n") < height {
		return whole
	}
	return cut(s.layout(func(line string) string { return shortened(line, width) + "\n" }), height-1)
}

// layout returns the nodes, then when their calls will have ended, then the pods.
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

// bar returns a bar that shows how much is done.
func bar(done, of int) string {
	full := 0
	if of > 0 {
		full = barLength * done / of
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barLength-full) + "]"
}

// shortened cuts a line to the width of a terminal.
func shortened(text string, width int) string {
	if runes := []rune(text); width > 1 && len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return text
}
