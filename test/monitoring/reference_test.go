// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/callgate"
	"github.com/callguard/callguard/pkg/realtime"
	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the tables of docs/reference/metrics.md") //nolint:gochecknoglobals // a flag of the test

// TestReference: docs/reference/metrics.md has every metric of the programs.
func TestReference(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	gates, probes := prometheus.NewRegistry(), prometheus.NewRegistry()
	_, err := callgate.New(callgate.Config{Upstream: "ws://livekit.example", Pod: "uid", Registry: gates, Log: log})
	trial.Must(t, err)
	_, err = realtime.New(realtime.Config{
		BaseURL: "wss://api.example/v1", Model: "m", KeyFile: "key", Interval: time.Minute, Timeout: time.Second, Registry: probes, Log: log,
	})
	trial.Must(t, err)
	gate, probe := names{}, names{}
	gate.MustRegister(gates)
	probe.MustRegister(probes)
	for program, known := range map[string]names{"control": registered(t), "call-gate": gate, "realtime-probe": probe} {
		var table strings.Builder
		table.WriteString("| metric | labels | meaning |\n|---|---|---|\n")
		for _, name := range slices.Sorted(maps.Keys(known)) {
			m := known[name]
			if m.help == "" {
				t.Errorf("%s has no help", name)
			}
			fmt.Fprintf(&table, "| `%s` | %s | %s |\n", name, strings.Join(m.labels, ", "), m.help)
		}
		trial.Documented(t, "../../docs/reference/metrics.md", program, table.String(), *update)
	}
}

// TestEventsReference: docs/reference/events.md has every reason of an Event, and no other.
func TestEventsReference(t *testing.T) {
	var reasons []string
	for _, dir := range []string{"../../pkg/guard", "../../pkg/admission", "../../pkg/claim", "../../pkg/cli"} {
		files, err := filepath.Glob(dir + "/*.go")
		trial.Must(t, err)
		for _, file := range files {
			for _, m := range reason.FindAllStringSubmatch(string(read(t, file)), -1) {
				reasons = append(reasons, m[1])
			}
		}
	}
	slices.Sort(reasons)
	var rows []string
	for _, m := range eventRow.FindAllStringSubmatch(string(read(t, "../../docs/reference/events.md")), -1) {
		rows = append(rows, m[1])
	}
	slices.Sort(rows)
	if diff := cmp.Diff(reasons, rows); diff != "" {
		t.Errorf("docs/reference/events.md does not have the reasons of the code (-code, +docs):\n%s", diff)
	}
}

var (
	reason   = regexp.MustCompile(`(?m)^\tReason\w+ *= "(\w+)"`)
	eventRow = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (?:Normal|Warning) \\|")
)
