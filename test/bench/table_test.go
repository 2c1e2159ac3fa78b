// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func milliseconds(ms ...int) []time.Duration {
	var out []time.Duration
	for _, m := range ms {
		out = append(out, time.Duration(m)*time.Millisecond)
	}
	return out
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	cases := map[string]struct {
		all        []time.Duration
		hundredths int
		want       time.Duration
	}{
		"None":   {nil, 50, 0},
		"One":    {milliseconds(7), 99, 7 * time.Millisecond},
		"Median": {milliseconds(9, 1, 5), 50, 5 * time.Millisecond},
		"P50":    {hundred, 50, 50},
		"P99":    {hundred, 99, 99},
		"P99Few": {milliseconds(1, 2, 3), 99, 3 * time.Millisecond},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := percentile(tc.all, tc.hundredths); got != tc.want {
				t.Errorf("percentile = %s, want %s", got, tc.want)
			}
		})
	}
}

func measured(metrics int) []result {
	return []result{
		{request{name: nativeJSON, accept: asJSON}, 25_000_000, milliseconds(500, 400, 700)},
		{request{name: nativeMetadata, accept: asProtobuf + metadataAsWell}, 9_000_000, milliseconds(100)},
		{request{name: metricsJSON, accept: asJSON}, 1_200_000, milliseconds(metrics)},
		{request{name: metricsJSON, accept: asJSON, gzip: true}, 90_000, milliseconds(40)},
	}
}

func TestTable(t *testing.T) {
	want := `                     ANSWER          AS     BYTES       P50       P99  OF PODS  OF METADATA
                       pods        JSON  25000000  500.0 ms  700.0 ms    1.000        5.000
        pods, metadata only    protobuf   9000000  100.0 ms  100.0 ms    0.200        1.000
  active_calls of every pod        JSON   1200000   50.0 ms   50.0 ms    0.100        0.500
  active_calls of every pod  JSON, gzip     90000   40.0 ms   40.0 ms    0.080        0.400
`
	if diff := cmp.Diff(want, table(measured(50))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJudge(t *testing.T) {
	if err := judge(measured(15)); err != nil {
		t.Errorf("0.03 of the pods and 0.15 of their metadata is as promised, but: %v", err)
	}
	if err := judge(measured(16)); err == nil || !strings.Contains(err.Error(), "0.032 of a list of pods, more than 0.030") {
		t.Errorf("judge() = %v, want that it takes 0.032 of the pods", err)
	}
	if err := judge(measured(26)); err == nil || !strings.Contains(err.Error(), "0.260 of a list of pods, metadata only, more than 0.250") {
		t.Errorf("judge() = %v, want that it takes 0.26 of the metadata", err)
	}
	if err := judge(nil); err == nil {
		t.Error("nothing measured is no success")
	}
}

func TestMemory(t *testing.T) {
	m, err := parseMemory([]byte("Name:\tmetrics-adapter\nVmPeak:\t 2000000 kB\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\n"))
	if want := (memory{now: 100 << 20, peak: 200 << 20}); err != nil || m != want {
		t.Errorf("parseMemory() = %+v, %v; want %+v", m, err, want)
	}
	if err := m.judge("under load"); err == nil || !strings.Contains(err.Error(), "200 MiB at most under load") {
		t.Errorf("judge() = %v, want that 200 MiB are too many", err)
	}
	if _, err := parseMemory([]byte("Name:\tx\n")); err == nil {
		t.Error("no numbers are no memory")
	}
}
