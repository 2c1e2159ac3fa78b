// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Metrics are a program's own metrics.
type Metrics []sample

type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// Sum adds the series of a name that have these labels, given as alternating names and
// values. Without any series it is zero.
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
next:
	for _, s := range m {
		if s.name != name {
			continue
		}
		for i := 0; i+1 < len(labels); i += 2 {
			if s.labels[labels[i]] != labels[i+1] {
				continue next
			}
		}
		sum += s.value
	}
	return sum
}

// parseMetrics parses the part of Prometheus' text format that callguard writes: one
// series per line, without timestamps.
func parseMetrics(text string) (Metrics, error) {
	series := regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	pair := regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
	var m Metrics
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := series.FindStringSubmatch(line)
		if parts == nil {
			return nil, fmt.Errorf("no metric: %q", line)
		}
		value, err := strconv.ParseFloat(parts[3], 64)
		if err != nil {
			return nil, fmt.Errorf("no metric: %q: %w", line, err)
		}
		s := sample{name: parts[1], labels: map[string]string{}, value: value}
		for _, label := range pair.FindAllStringSubmatch(parts[2], -1) {
			s.labels[label[1]] = label[2]
		}
		m = append(m, s)
	}
	return m, nil
}
