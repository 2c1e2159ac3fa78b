// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/kubectl/pkg/util/term"
)

// sizeOf returns a function that measures a terminal; nil if the output is not a terminal.
func sizeOf(out io.Writer) func() (columns, lines int) {
	tty := term.TTY{Out: out}
	if _, is := out.(*os.File); !is || !tty.IsTerminalOut() {
		return nil
	}
	return func() (int, int) {
		size := tty.GetSize()
		if size == nil {
			return 0, 0
		}
		return int(size.Width), int(size.Height)
	}
}

// widthOf returns how many columns an output has; 0 if it is not a terminal.
func widthOf(out io.Writer) int {
	if p, is := out.(*plain); is && p.size != nil {
		width, _ := p.size()
		return width
	}
	return 0
}

// unfolded returns an output whose lines are not folded, because programs read them.
func unfolded(out io.Writer) io.Writer {
	if p, is := out.(*plain); is {
		return &plain{to: p.to}
	}
	return out
}

// folded breaks lines that are wider than a terminal between words, and continues below the
// last column of the line. Without a width it changes nothing.
func folded(text string, width int) string {
	if width <= 0 {
		return text
	}
	var b strings.Builder
	for line := range strings.SplitAfterSeq(text, "\n") {
		indent := ""
		for utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > width {
			if indent == "" {
				indent = strings.Repeat(" ", lastColumn([]rune(line)[:width]))
			}
			head, rest := breakAt(line, width, len(indent))
			b.WriteString(strings.TrimRight(head, " ") + "\n")
			line = indent + strings.TrimLeft(rest, " ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// lastColumn returns where the last column of a line begins, after two or more spaces; if
// it is too narrow, two more than where the line begins.
func lastColumn(line []rune) int {
	begins := 0
	for begins < len(line) && line[begins] == ' ' {
		begins++
	}
	for i := len(line) / 2; i > begins+1; i-- {
		if line[i] != ' ' && line[i-1] == ' ' && line[i-2] == ' ' {
			return i
		}
	}
	return min(begins+2, len(line)/2)
}

// marks are the characters between the parts of names.
const marks = "-/,."

// breakAt breaks a text that is too wide, after the last space or, without one, after
// another mark between parts of names, but not within the first runes.
func breakAt(text string, width, first int) (head, rest string) {
	runes := []rune(text)
	for _, at := range []string{" ", marks} {
		for i := width; i > first+1; i-- {
			if runes[i] == ' ' || i > first+2 && strings.ContainsRune(at, runes[i-1]) {
				return string(runes[:i]), string(runes[i:])
			}
		}
	}
	return string(runes[:width]), string(runes[width:])
}

// leastColumn is the minimum width of a column.
const leastColumn = 5

// grid prints rows of cells that are separated by tabs, as kubectl prints tables. If the
// table is wider than the terminal, the widest columns become narrower, and their cells
// continue below.
type grid struct {
	bytes.Buffer

	out   io.Writer
	width int
}

// newGrid returns a table for an output; width is the number of columns of a terminal.
func newGrid(out io.Writer, width int) *grid { return &grid{out: out, width: width} }

// Flush writes the table.
func (g *grid) Flush() error {
	var aligned bytes.Buffer
	w := printers.GetNewTabWriter(&aligned)
	if _, err := w.Write(g.Bytes()); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text := aligned.String()
	if widest := slices.Max(lengths(strings.Split(text, "\n"))); g.width > 0 && widest > g.width {
		text = narrowed(g.String(), g.width)
	}
	_, err := io.WriteString(g.out, text)
	return err
}

func lengths(texts []string) (list []int) {
	for _, text := range texts {
		list = append(list, utf8.RuneCountInString(text))
	}
	return list
}

// longestPart returns the length of the longest part of a cell that should not be broken.
func longestPart(cell string) int {
	longest, n := 0, 0
	for _, r := range cell {
		if r == ' ' {
			n = 0
			continue
		}
		n++
		longest = max(longest, n)
		if strings.ContainsRune(marks, r) {
			n = 0
		}
	}
	return longest
}

// fitColumns makes the widest columns narrower until all fit, with a gap between them: first
// those whose cells then break between parts; others only with a smaller gap.
func fitColumns(widths, least []int, width int) (gap int) {
	sum := 0
	for _, n := range widths {
		sum += n
	}
	gap = 2
	for sum+gap*(len(widths)-1) > width {
		best := -1
		for i, n := range widths {
			if n > leastColumn && (n > least[i] || gap == 1) && (best < 0 || n > widths[best]) {
				best = i
			}
		}
		switch {
		case best >= 0:
			widths[best]--
			sum--
		case gap > 1:
			gap--
		default:
			return gap
		}
	}
	return gap
}

// narrowed lays out a table for a width.
func narrowed(text string, width int) string {
	var rows [][]string
	var widths, least []int
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		for i, n := range lengths(cells) {
			if i == len(widths) {
				widths, least = append(widths, 0), append(least, 0)
			}
			widths[i], least[i] = max(widths[i], n), max(least[i], longestPart(cells[i]))
		}
		rows = append(rows, cells)
	}
	gap := fitColumns(widths, least, width)
	var b strings.Builder
	for _, cells := range rows {
		for more := true; more; {
			more = false
			var line strings.Builder
			for i, cell := range cells {
				head, rest := cell, ""
				if utf8.RuneCountInString(cell) > widths[i] {
					head, rest = breakAt(cell, widths[i], 0)
				}
				line.WriteString(head + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(head)+gap))
				cells[i] = strings.TrimLeft(rest, " ")
				more = more || cells[i] != ""
			}
			b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		}
	}
	return b.String()
}
