// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func drawn(g graph) string {
	var b strings.Builder
	g.draw(&b)
	return b.String()
}

// a graph of a minute, with points every second.
func minute(kind, unit string, lines ...line) graph {
	g := graph{from: time.Unix(1000, 0), to: time.Unix(1060, 0), lines: lines}
	g.panel.Type, g.panel.Title, g.panel.FieldConfig.Defaults.Unit = kind, "Calls <now>", unit
	g.panel.GridPos.W, g.panel.GridPos.H = 12, 7
	return g
}

func constant(name string, value float64, from, to int) line {
	l := line{name: name, labels: map[string]string{"pod": name}}
	for at := from; at <= to; at++ {
		l.points = append(l.points, point{at: float64(at), value: value})
	}
	return l
}

func TestPanels(t *testing.T) {
	now := constant("web-1", 42.126, 1000, 1060)
	gone := constant("web-2", 7, 1000, 1030)
	cases := map[string]struct {
		reason      string
		graph       graph
		wants, lack []string
	}{
		"Stat":   {"It shows the last value.", minute("stat", "short", now), []string{">42.13<", "Calls &lt;now&gt;"}, []string{"<path"}},
		"Ended":  {"What has ended is no value of now.", minute("stat", "short", gone), []string{">No data<"}, []string{">7<"}},
		"Curves": {"Each series is a line with its name, also one that has ended.", minute("timeseries", "s", now, gone), []string{">web-1<", ">web-2<", ">80 s<", ">1:00<"}, nil},
		"Empty":  {"Nothing is drawn of nothing.", minute("timeseries", "s"), []string{">No data<"}, []string{"<path"}},
		"Table":  {"A table has a row for what there is at the end.", minute("table", "s", gone, now), []string{">pod<", ">web-1<", ">42.13 s<"}, []string{"web-2"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := drawn(tc.graph)
			for _, want := range tc.wants {
				if !strings.Contains(got, want) {
					t.Errorf("%s It lacks %q:\n%s", tc.reason, want, got)
				}
			}
			for _, lack := range tc.lack {
				if strings.Contains(got, lack) {
					t.Errorf("%s It has %q:\n%s", tc.reason, lack, got)
				}
			}
			for decoder := xml.NewDecoder(strings.NewReader(got)); ; {
				if _, err := decoder.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("it is no XML: %v\n%s", err, got)
				}
			}
		})
	}
}

func TestGapsAreNoLines(t *testing.T) {
	same := func(v float64) float64 { return v }
	points := []point{{1000, 1}, {1001, 2}, {1030, 3}}
	if got, want := path(points, same, same), "M1000.0 1.0L1001.0 2.0M1030.0 3.0"; got != want {
		t.Errorf("path is %q, want %q", got, want)
	}
}

func TestLegend(t *testing.T) {
	target := Target{LegendFormat: "{{namespace}} {{ workload }}"}
	if got := target.legend(map[string]string{"namespace": "voice", "workload": "Deployment/web"}); got != "voice Deployment/web" {
		t.Errorf("legend is %q", got)
	}
}

func TestPointsAreAsPrometheusWritesThem(t *testing.T) {
	var got []series
	if err := json.Unmarshal([]byte(`[{"metric":{"pod":"a"},"values":[[1000,"3"],[1001.5,"NaN"]]}]`), &got); err != nil || got[0].Points[0] != (point{1000, 3}) {
		t.Errorf("read %v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`[{"values":[["3",1000]]}]`), &got); err == nil {
		t.Error("a point without a time is read")
	}
}

func TestFormat(t *testing.T) {
	cases := map[string]struct {
		value float64
		unit  string
	}{
		"3":        {3, "short"},
		"0.33":     {1.0 / 3, "short"},
		"2.5/s":    {2.5, "reqps"},
		"45.2 s":   {45.2, "s"},
		"12.5 min": {750, "s"},
		"90 d":     {90 * 24 * 3600, "s"},
	}
	for want, tc := range cases {
		if got := format(tc.value, tc.unit); got != want {
			t.Errorf("format(%v, %q) = %q, want %q", tc.value, tc.unit, got, want)
		}
	}
}
