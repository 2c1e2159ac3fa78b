// SPDX-License-Identifier: Apache-2.0

package lab

import "testing"

func TestSum(t *testing.T) {
	m, err := parseMetrics(`# HELP writes_total Writes.
# TYPE writes_total counter
writes_total{resource="pods",verb="patch"} 3
writes_total{resource="pods",verb="delete"} 2
writes_total{resource="events",verb="create"} 1e+01
up 1
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		reason string
		name   string
		labels []string
		want   float64
	}{
		{reason: "Without labels every series counts.", name: "writes_total", want: 15},
		{reason: "One label chooses.", name: "writes_total", labels: []string{"resource", "pods"}, want: 5},
		{reason: "So do two.", name: "writes_total", labels: []string{"resource", "pods", "verb", "patch"}, want: 3},
		{reason: "A series may have no labels.", name: "up", want: 1},
		{reason: "A missing series counts as zero.", name: "down", want: 0},
	} {
		if got := m.Sum(tc.name, tc.labels...); got != tc.want {
			t.Errorf("%s Sum(%s, %v) = %v; want %v", tc.reason, tc.name, tc.labels, got, tc.want)
		}
	}
	if _, err := parseMetrics("<html>"); err == nil {
		t.Error("a web page reads as metrics")
	}
}
