// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"html"
	"os"
	"strings"
	"time"
)

// frame is what the screen showed from a time on.
type frame struct {
	at   time.Duration
	text string
}

const (
	pace      = 3               // how much faster than the show the picture is
	lastStays = 8 * time.Second // the summary, in the picture
	frameGap  = 1 * time.Second // of the show: shorter frames are not drawn
	charWidth = 8.43            // of a monospaced font of this size
	fontSize  = 14
	rowHeight = 19
	margin    = 16
)

// writePicture writes frames as an SVG that plays them, the last one for longer. A viewer without animation shows the
// last.
func writePicture(file string, frames []frame) error {
	if len(frames) == 0 {
		return errors.New("there is nothing to draw a picture of: nothing was shown")
	}
	if err := os.WriteFile(file, []byte(picture(thin(frames))), 0o644); err != nil { //nolint:gosec // everybody may look at it
		return fmt.Errorf("cannot write the picture: %w; give --picture a file in a folder that exists", err)
	}
	return nil
}

// thin removes frames that were hardly visible, but never the last.
func thin(frames []frame) []frame {
	var kept []frame
	for _, f := range frames {
		if n := len(kept); n > 0 && f.at-kept[n-1].at < frameGap {
			kept[n-1].text = f.text
			continue
		}
		kept = append(kept, f)
	}
	return kept
}

// picture is the SVG. Its frames are on top of each other, and each is visible during its time.
func picture(frames []frame) string {
	first, last := frames[0].at, frames[len(frames)-1]
	total := ((last.at-first)/pace + lastStays).Seconds()
	rows := 0
	for _, f := range frames {
		rows = max(rows, strings.Count(f.text, "\n")+1)
	}
	width, height := columns*charWidth+2*margin, rows*rowHeight+2*margin
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="%d">
<title>make demo: three drains of a node in mid-call</title>
<style>text{fill:#d4d4d4;white-space:pre}.head{fill:#9cdcfe}.bad{fill:#f48771}.good{fill:#89d185}</style>
<rect width="100%%" height="100%%" rx="8" fill="#1e1e1e"/>
`, width, height, fontSize)
	for i, f := range frames {
		from := ((f.at - first) / pace).Seconds() / total
		values, times := "hidden;visible", fmt.Sprintf("0;%.4f", from)
		visibility := "visible"
		if i < len(frames)-1 {
			visibility = "hidden"
			values += ";hidden"
			times += fmt.Sprintf(";%.4f", ((frames[i+1].at-first)/pace).Seconds()/total)
		}
		if i == 0 { // visible from the start
			values, times = strings.TrimPrefix(values, "hidden;"), strings.TrimPrefix(times, "0;")
		}
		_, _ = fmt.Fprintf(&b, "<g visibility=%q><animate attributeName=\"visibility\" calcMode=\"discrete\" dur=\"%.1fs\" repeatCount=\"indefinite\" values=%q keyTimes=%q/>\n", visibility, total, values, times)
		for row, line := range strings.Split(f.text, "\n") {
			if line != "" {
				_, _ = fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\"%s xml:space=\"preserve\">%s</text>\n", margin, margin+fontSize+row*rowHeight, class(line), html.EscapeString(line))
			}
		}
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// class colours the lines that tell whether calls were lost or not answered: those with callers up, and the summary's.
func class(line string) string {
	summary := strings.Contains(line, " of ") && (strings.Contains(line, " after ") || strings.HasSuffix(line, " not yet"))
	switch {
	case strings.HasPrefix(line, "callguard demo"), strings.HasPrefix(line, "a drain in mid-call"):
		return ` class="head"`
	case strings.Contains(line, ", lost 0, unanswered 0"), summary && strings.Contains(line, " 0 of ") && strings.Count(line, " 0 ") == 2:
		return ` class="good"`
	case strings.Contains(line, ", lost "), summary:
		return ` class="bad"`
	}
	return ""
}
