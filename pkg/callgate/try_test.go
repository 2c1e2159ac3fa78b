// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/callguard/callguard/pkg/call"
)

// TestTriedCallsHaveNoLength: a call of kubectl calls try is a call: it holds its pod and is counted when it ends. Its length
// says nothing about how long callers talk.
func TestTriedCallsHaveNoLength(t *testing.T) {
	for room, want := range map[string]uint64{"+4930555001": 1, call.TryRoomPrefix + "99d76268c2f9": 0} {
		began := time.Unix(0, 0)
		registry := prometheus.NewRegistry()
		b := newBook("pod", DefaultLaunchLimit, began, NewMetrics(registry))
		b.restore(legacy{}, true)
		b.register(1)
		b.assign(1, "job", room, "agent", began)
		if a := b.answer(began); a.Calls != 1 || len(a.Jobs) != 1 || a.Jobs[0].Tried != (want == 0) {
			t.Errorf("room %s: the pod holds %d calls: %+v", room, a.Calls, a.Jobs)
		}
		b.saw("job", sight{open: true, there: true}, began)
		b.end(1, "job", began.Add(time.Minute))
		if ended := testutil.ToFloat64(b.counts.ends.WithLabelValues(endByWorker)); ended != 1 {
			t.Errorf("room %s: %v jobs have ended", room, ended)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "callguard_gate_job_duration_seconds" && f.GetMetric()[0].GetHistogram().GetSampleCount() != want {
				t.Errorf("room %s: %d lengths were seen, want %d", room, f.GetMetric()[0].GetHistogram().GetSampleCount(), want)
			}
		}
	}
}
