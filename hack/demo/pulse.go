// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	columns = 80 // the width of an ordinary terminal
	// silence is the longest time without output while the stage is set up.
	silence = 8 * time.Second
)

// pulse passes whole lines on, folded, and prints what is in progress after a time without output.
type pulse struct {
	out io.Writer

	mu   sync.Mutex
	last string // the last line that came
	at   time.Time
	told time.Time // when anything was written
}

func newPulse(out io.Writer) *pulse {
	now := time.Now()
	return &pulse{out: out, at: now, told: now}
}

// Write takes whole lines.
func (p *pulse) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for line := range strings.Lines(string(text)) {
		p.last, p.at = strings.TrimRight(line, "\n"), now
	}
	p.told = now
	if _, err := io.WriteString(p.out, fold(string(text), columns)); err != nil {
		return 0, err
	}
	return len(text), nil
}

// beat prints what is in progress, if that is due.
func (p *pulse) beat(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == "" || now.Sub(p.told) < silence {
		return
	}
	p.told = now
	_, _ = io.WriteString(p.out, fold(fmt.Sprintf("still %s, %s\n", p.last, clock(now.Sub(p.at))), columns))
}

// start lets it beat until stop is called.
func (p *pulse) start() (stop func()) {
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case now := <-tick.C:
				p.beat(now)
			}
		}
	})
	return sync.OnceFunc(func() { close(end); done.Wait() })
}

// fold breaks lines between words so that none is wider than width. Further lines of one are indented. A word
// that is wider, such as a path to be copied, stays whole on a line of its own.
func fold(text string, width int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, ended := strings.CutSuffix(line, "\n")
		if len([]rune(line)) <= width {
			b.WriteString(line)
		} else {
			foldLine(&b, line, width)
		}
		if ended {
			b.WriteString("\n")
		}
	}
	return b.String()
}

func foldLine(b *strings.Builder, line string, width int) {
	const indent = "  "
	used := 0
	for i, word := range strings.Fields(line) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case used+1+n > width:
			b.WriteString("\n" + indent)
			used = len(indent)
		default:
			b.WriteString(" ")
			used++
		}
		b.WriteString(word)
		used += n
	}
}
