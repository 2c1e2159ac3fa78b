// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// screen shows snapshots: a table in place on a terminal, elsewhere a line
// whenever something has changed.
type screen struct {
	out      io.Writer
	size     func() (width, height int) // nil when out is no terminal
	drawn    int                        // lines of the table that stands there
	lastLine string
	lastAt   time.Duration
}

func newScreen(out *os.File) *screen {
	s := &screen{out: out}
	if fd := int(out.Fd()); term.IsTerminal(fd) {
		s.size = func() (int, int) {
			width, height, err := term.GetSize(fd)
			if err != nil {
				return 80, 24
			}
			return width, height
		}
	}
	return s
}

// show shows a snapshot. A terminal that cannot be written to is no reason to stop.
func (s *screen) show(snap snapshot) {
	s.draw(snap.At, line(snap), func(width, height int) string { return table(snap, width, height) })
}

// draw shows a table on a terminal, and the line elsewhere.
func (s *screen) draw(at time.Duration, now string, table func(width, height int) string) {
	if s.size != nil {
		text := table(s.size())
		up := ""
		if s.drawn > 0 {
			up = fmt.Sprintf("\x1b[%dA\x1b[J", s.drawn) // up, and clear from there
		}
		_, _ = io.WriteString(s.out, up+text)
		s.drawn = strings.Count(text, "\n")
		return
	}
	if now == s.lastLine || (s.lastLine != "" && at-s.lastAt < time.Second) {
		return
	}
	_, _ = fmt.Fprintf(s.out, "%s  %s\n", clock(at), now)
	s.lastLine, s.lastAt = now, at
}

// print writes below what was shown.
func (s *screen) print(text string) {
	_, _ = fmt.Fprint(s.out, "\n"+text)
	s.drawn, s.lastLine = 0, ""
}
