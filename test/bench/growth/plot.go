// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Dimensions of the picture.
const (
	width, height             = 860, 460
	left, right, top, bottom  = 70, 310, 24, 52
	plotWidth, plotHeight     = width - left - right, height - top - bottom
	lineHeight, fontSize, dot = 18, 13, 3
)

// plot draws every series as an SVG with logarithmic axes. All start at the same point: the
// x axis is the size relative to the first one, the y axis the measurement relative to the
// first one, so the slope of a line is its exponent. It works on a light and a dark
// background.
func plot(rows []row) string {
	across, up := 1.0, 1.0 // decades
	for _, r := range rows {
		for _, p := range r.points {
			across = max(across, math.Log10(p.size/r.first().size))
			up = max(up, math.Log10(p.value/r.first().value))
		}
	}
	across, up = math.Ceil(across), math.Ceil(up)
	at := func(x, y float64) (float64, float64) {
		return left + plotWidth*x/across, top + plotHeight*(1-y/up)
	}
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,-apple-system,'Segoe UI',sans-serif" font-size="%d">
<title>How what callguard takes grows</title>
<style>%s</style>
<rect class="paper" width="100%%" height="100%%" rx="8"/>
`, width, height, fontSize, style())
	for decade := range int(across) + 1 {
		x, _ := at(float64(decade), 0)
		_, _ = fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text class=\"ink\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s×</text>\n", x, top, top+plotHeight, x, top+plotHeight+20, count(math.Pow10(decade)))
	}
	for decade := range int(up) + 1 {
		_, y := at(0, float64(decade))
		_, _ = fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text class=\"ink\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s×</text>\n", left, y, left+plotWidth, left-8, y+4, count(math.Pow10(decade)))
	}
	_, _ = fmt.Fprintf(&b, "<text class=\"ink\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">times as many pods, autoscalers, Deployments or rooms as at first</text>\n", left+plotWidth/2, height-12)
	x, y := at(min(across, up), min(across, up))
	_, _ = fmt.Fprintf(&b, "<path class=\"linear\" d=\"M%d %dL%.1f %.1f\"/>\n", left, top+plotHeight, x, y)
	for i, r := range rows {
		var path strings.Builder
		for j, p := range r.points {
			x, y := at(math.Log10(p.size/r.first().size), math.Log10(p.value/r.first().value))
			y = min(y, top+plotHeight) // values below the first one
			command := "L"
			if j == 0 {
				command = "M"
			}
			_, _ = fmt.Fprintf(&path, "%s%.1f %.1f", command, x, y)
			_, _ = fmt.Fprintf(&b, "<circle class=\"dot c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"/>\n", i%len(colours()), x, y, dot)
		}
		_, _ = fmt.Fprintf(&b, "<path class=\"line c%d\" d=\"%s\"/>\n", i%len(colours()), path.String())
	}
	legend(&b, rows)
	b.WriteString("</svg>\n")
	return b.String()
}

// legend names the lines, the steepest first.
func legend(b *strings.Builder, rows []row) {
	order := make([]int, len(rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if rows[a].exponent > rows[b].exponent {
			return -1
		}
		return 1
	})
	x, y := left+plotWidth+24, top+lineHeight
	_, _ = fmt.Fprintf(b, "<text class=\"ink\" x=\"%d\" y=\"%d\">exponent</text>\n", x, y)
	for _, i := range order {
		y += 2 * lineHeight
		_, _ = fmt.Fprintf(b, "<path class=\"line c%d\" d=\"M%d %dh20\"/><text class=\"ink\" x=\"%d\" y=\"%d\">%.2f  %s</text><text class=\"faint\" x=\"%d\" y=\"%d\">%s %s</text>\n",
			i%len(colours()), x, y-5, x+28, y, rows[i].exponent, html.EscapeString(rows[i].name), x+28, y+lineHeight-2, span(rows[i]), html.EscapeString(rows[i].of))
	}
	y += 2 * lineHeight
	_, _ = fmt.Fprintf(b, "<path class=\"linear\" d=\"M%d %dh20\"/><text class=\"ink\" x=\"%d\" y=\"%d\">1.00  as many times as much</text>\n", x, y-5, x+28, y)
}

// span describes the range of sizes.
func span(r row) string {
	return fmt.Sprintf("%s to %s", count(r.first().size), count(r.last().size))
}

// colours of lines, on a light and on a dark background.
func colours() [][2]string {
	return [][2]string{
		{"#0072b2", "#56b4e9"}, {"#d55e00", "#ff9d5c"}, {"#00795a", "#3ecf9f"}, {"#a34a80", "#e79bc8"},
		{"#8a6d00", "#e6c229"}, {"#5b5bd6", "#a5a5ff"}, {"#b3261e", "#ff8a80"}, {"#3d6b7d", "#8fc7dc"},
	}
}

func style() string {
	var light, dark strings.Builder
	for i, c := range colours() {
		_, _ = fmt.Fprintf(&light, ".c%d{stroke:%s;color:%s}", i, c[0], c[0])
		_, _ = fmt.Fprintf(&dark, ".c%d{stroke:%s;color:%s}", i, c[1], c[1])
	}
	return ".paper{fill:#fff}.ink{fill:#1f2328}.faint{fill:#59636e}.grid{stroke:#d1d9e0;fill:none}.linear{stroke:#59636e;stroke-dasharray:5 4;fill:none}" +
		".line{stroke-width:2;fill:none}.dot{fill:currentColor}" + light.String() +
		"@media(prefers-color-scheme:dark){.paper{fill:#0d1117}.ink{fill:#e6edf3}.faint{fill:#9198a1}.grid{stroke:#30363d}.linear{stroke:#9198a1}" + dark.String() + "}"
}
