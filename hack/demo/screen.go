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

// screen shows snapshots: a table in place on a terminal, elsewhere lines
// whenever something has changed.
type screen struct {
	out    io.Writer
	size   func() (width, height int) // nil when out is no terminal
	drawn  []string                   // the table that stands there
	lines  []string                   // what was said last, elsewhere
	lastAt time.Duration
	watch  bool // keeps what was shown in frames
	frames []frame
}

func newScreen(out *os.File) *screen {
	s := &screen{out: out}
	if fd := int(out.Fd()); term.IsTerminal(fd) {
		s.size = func() (int, int) {
			width, height, err := term.GetSize(fd)
			if err != nil {
				return columns, 24
			}
			return width, height
		}
	}
	return s
}

// show shows a snapshot. An error of the terminal does not stop the show.
func (s *screen) show(snap snapshot) {
	s.draw(snap.At, []string{line(snap)}, func(width, height int) string { return table(snap, width, height) })
}

// draw shows a table on a terminal, and elsewhere each line that has changed, or all when nothing has for a while.
func (s *screen) draw(at time.Duration, now []string, table func(width, height int) string) {
	if s.watch {
		s.frames = append(s.frames, frame{at, strings.TrimRight(table(columns, 0), "\n")})
	}
	if s.size != nil {
		width, height := s.size()
		text := table(width, height)
		up := ""
		if rows := rowsOf(s.drawn, width); rows > 0 {
			up = fmt.Sprintf("\x1b[%dA\x1b[J", min(rows, max(height-1, 1))) // up, and clear from there
		}
		_, _ = io.WriteString(s.out, up+text)
		s.drawn = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		return
	}
	quiet := at - s.lastAt
	if len(s.lines) == len(now) && quiet < time.Second {
		return
	}
	for i, l := range now {
		if len(s.lines) == len(now) && s.lines[i] == l && quiet < silence {
			continue
		}
		_, _ = fmt.Fprintf(s.out, "%s  %s\n", clock(at), l)
		s.lastAt = at
	}
	s.lines = append([]string(nil), now...)
}

// rowsOf is how many rows lines take on a terminal of a width: a terminal that became narrower has wrapped them.
func rowsOf(lines []string, width int) int {
	rows := 0
	for _, l := range lines {
		rows++
		if n := len([]rune(l)); width > 0 && n > width {
			rows += (n - 1) / width
		}
	}
	return rows
}

// print writes below what was shown.
func (s *screen) print(text string) {
	text = fold(text, columns)
	if n := len(s.frames); n > 0 { // below what is still to be seen
		s.frames = append(s.frames, frame{s.frames[n-1].at + frameGap, s.frames[n-1].text + "\n\n" + strings.TrimRight(text, "\n")})
	}
	_, _ = fmt.Fprint(s.out, "\n"+text)
	s.drawn, s.lines = nil, nil
}
