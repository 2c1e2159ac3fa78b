// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	column, row = 44, 34 // pixels of Grafana's grid
	gap         = 8
	headline    = 26
	bottom      = 40 // for times and legend
	left        = 40
	letter      = 6.4 // width of one, in pixels
)

// colour returns the colour of the nth line of a graph, in Grafana's order.
func colour(n int) string {
	all := [...]string{"#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#c8f2c2"}
	return all[n%len(all)]
}

// Draw asks a Prometheus for the panels of a dashboard's upper part, and returns an SVG of them at a point in time.
// rows is how many rows of Grafana's grid it draws.
func Draw(ctx context.Context, p *Prometheus, panels []Panel, rows int, from, to time.Time) (string, error) {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Inter,Helvetica,Arial,sans-serif" font-size="12">
<title>callguard's dashboard</title>
<style>text{fill:#ccccdc}.dim{fill:#8e8e99;font-size:10px}.head{font-weight:500}.big{font-size:34px;fill:#73bf69}</style>
<rect width="100%%" height="100%%" fill="#111217"/>
`, 24*column+gap, rows*row+gap)
	for _, panel := range panels {
		if panel.GridPos.Y+panel.GridPos.H > rows {
			continue
		}
		graph := graph{panel: panel, from: from, to: to}
		for _, target := range panel.Targets {
			found, err := p.ask(ctx, target.Expr, from, to)
			if err != nil {
				return "", fmt.Errorf("panel %q: %w", panel.Title, err)
			}
			for _, s := range found {
				graph.lines = append(graph.lines, line{name: target.legend(s.Labels), labels: s.Labels, points: s.Points})
			}
		}
		graph.draw(&b)
	}
	b.WriteString("</svg>\n")
	return b.String(), nil
}

// line is a series with its name.
type line struct {
	name   string
	labels map[string]string
	points []point
}

// last returns its value at the end, if there is one.
func (l line) last(to time.Time) (float64, bool) {
	if len(l.points) == 0 {
		return 0, false
	}
	end := l.points[len(l.points)-1]
	return end.value, float64(to.Unix())-end.at < 2*every.Seconds()
}

// graph draws a panel with its series.
type graph struct {
	panel    Panel
	lines    []line
	from, to time.Time
}

func (g graph) draw(b *strings.Builder) {
	at := g.panel.GridPos
	_, _ = fmt.Fprintf(b, "<g transform=\"translate(%d %d)\">\n", gap+at.X*column, gap+at.Y*row)
	width, height := at.W*column-gap, at.H*row-gap
	if g.panel.Type == "row" {
		text(b, 2, 18, "head", g.panel.Title)
		b.WriteString("</g>\n")
		return
	}
	_, _ = fmt.Fprintf(b, "<rect width=\"%d\" height=\"%d\" rx=\"2\" fill=\"#181b1f\" stroke=\"#2a2b31\"/>\n", width, height)
	text(b, 8, 17, "head", fit(g.panel.Title, float64(width-8)))
	switch g.panel.Type {
	case "stat":
		g.stat(b, width, height)
	case "table":
		g.table(b, width, height)
	default:
		g.curves(b, width, height)
	}
	b.WriteString("</g>\n")
}

func text(b *strings.Builder, x, y float64, class, what string) {
	_, _ = fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" class=%q>%s</text>\n", x, y, class, html.EscapeString(what))
}

// stat draws the last value.
func (g graph) stat(b *strings.Builder, width, height int) {
	shown := "No data"
	for _, l := range g.lines {
		if value, ok := l.last(g.to); ok {
			shown = format(value, g.panel.FieldConfig.Defaults.Unit)
		}
	}
	_, _ = fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" class=\"big\" text-anchor=\"middle\">%s</text>\n", width/2, height/2+headline/2+6, html.EscapeString(shown))
}

// table draws a row for each series that exists at the end, the largest first.
func (g graph) table(b *strings.Builder, width, height int) {
	lines := slices.DeleteFunc(slices.Clone(g.lines), func(l line) bool { _, ok := l.last(g.to); return !ok })
	value := func(l line) float64 { v, _ := l.last(g.to); return v }
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(value(b), value(a)) })
	if len(lines) == 0 {
		text(b, float64(width)/2-20, float64(height)/2, "dim", "No data")
		return
	}
	var names []string
	for name := range lines[0].labels {
		names = append(names, name)
	}
	slices.Sort(names)
	step := float64(width-16) / float64(len(names)+1)
	y := float64(headline + 14)
	for i, name := range append(slices.Clone(names), "value") {
		text(b, 8+float64(i)*step, y, "dim", name)
	}
	for _, l := range lines {
		y += 18
		if y > float64(height-6) {
			break
		}
		for i, name := range names {
			text(b, 8+float64(i)*step, y, "", fit(l.labels[name], step-20))
		}
		text(b, 8+float64(len(names))*step, y, "", format(value(l), g.panel.FieldConfig.Defaults.Unit))
	}
}

// curves draws all series over time, from 0, with a legend below.
func (g graph) curves(b *strings.Builder, width, height int) {
	most, unit := 0.0, g.panel.FieldConfig.Defaults.Unit
	for _, l := range g.lines {
		for _, v := range l.points {
			most = max(most, v.value)
		}
	}
	if len(g.lines) == 0 {
		text(b, float64(width)/2-20, float64(height)/2, "dim", "No data")
		return
	}
	top := roundUp(most)
	right, low, high := float64(width-10), float64(height-bottom), float64(headline+8)
	x := func(at float64) float64 {
		return left + (at-float64(g.from.Unix()))/g.to.Sub(g.from).Seconds()*(right-left)
	}
	y := func(value float64) float64 { return low - value/top*(low-high) }
	for i := range 5 {
		value := top * float64(i) / 4
		_, _ = fmt.Fprintf(b, "<path d=\"M%d %.1fH%.1f\" stroke=\"#2a2b31\"/><text x=\"%d\" y=\"%.1f\" class=\"dim\" text-anchor=\"end\">%s</text>\n",
			left, y(value), right, left-5, y(value)+3, format(value, unit))
	}
	for i := range 4 {
		at := g.to.Sub(g.from) * time.Duration(i) / 3
		_, _ = fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" class=\"dim\" text-anchor=%q>%d:%02d</text>\n",
			x(float64(g.from.Unix())+at.Seconds()), low+13, []string{"start", "middle", "middle", "end"}[i], int(at.Minutes()), int(at.Seconds())%60)
	}
	edge := float64(left)
	for i, l := range g.lines {
		_, _ = fmt.Fprintf(b, "<path d=%q fill=\"none\" stroke=%q stroke-width=\"1.5\"/>\n", path(l.points, x, y), colour(i))
		size := float64(len(l.name))*letter + 26
		if l.name == "" || edge+size > right {
			continue // no room for more of the legend
		}
		_, _ = fmt.Fprintf(b, "<path d=\"M%.1f %dh12\" stroke=%q stroke-width=\"3\"/>\n", edge, height-12, colour(i))
		text(b, edge+16, float64(height-8), "", l.name)
		edge += size
	}
}

// path leaves gaps where there are no values.
func path(points []point, x, y func(float64) float64) string {
	var b strings.Builder
	for i, v := range points {
		verb := "L"
		if i == 0 || v.at-points[i-1].at > 2*every.Seconds() {
			verb = "M"
		}
		_, _ = fmt.Fprintf(&b, "%s%.1f %.1f", verb, x(v.at), y(v.value))
	}
	return b.String()
}

// roundUp returns the upper end of an axis with four parts.
func roundUp(most float64) float64 {
	if most <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for _, step := range []float64{1, 2, 4, 8} {
		if step*unit >= most {
			return step * unit
		}
	}
	return 10 * unit
}

// format writes a value in Grafana's unit.
func format(value float64, unit string) string {
	number := strconv.FormatFloat(math.Round(value*100)/100, 'f', -1, 64)
	switch {
	case unit == "s" && value >= 2*24*3600:
		return strconv.FormatFloat(math.Round(value/24/3600), 'f', -1, 64) + " d"
	case unit == "s" && value >= 120:
		return strconv.FormatFloat(math.Round(value/6)/10, 'f', -1, 64) + " min"
	case unit == "s":
		return number + " s"
	case unit == "reqps":
		return number + "/s"
	}
	return number
}

// fit shortens a text to a width.
func fit(what string, width float64) string {
	if most := int(width / letter); len(what) > most {
		return what[:max(most-1, 0)] + "…"
	}
	return what
}
