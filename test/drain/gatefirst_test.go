// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"testing"
	"time"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// TestDrainAsksTheGateFirst drains a node whose pod has a long call (case O19). While its gate counts the call, the
// guard sends no requests to LiveKit. When the call ends, the pod leaves no later than others.
func TestDrainAsksTheGateFirst(t *testing.T) {
	const quietFor = 20 * time.Second
	withGuard(t)
	s := tell(t, 2)
	s.deploy(2, gated(nil, lab.GateKind, true))
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) {
		return shown(len(s.pods(leaving)) == len(leavers) && s.watch.able() == 2, s.watch.describe())
	})
	metrics := func() lab.Metrics {
		t.Helper()
		m, err := stage.Guard.Metrics(t.Context())
		s.must(err)
		return m
	}
	requests := func() float64 { return metrics().Sum("callguard_livekit_request_duration_seconds_count") }
	before, since := requests(), time.Now()
	s.eventually(inTime, "LiveKit is left alone", func() (bool, error) {
		if now := requests(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) >= quietFor, nil
	})
	m := metrics()
	if calls, unknown := m.Sum("callguard_holds", "rule", "calls"), m.Sum("callguard_holds", "rule", "unknown"); int(calls) != len(leavers) || unknown != 0 {
		t.Errorf("%v pods are held for their calls, and %v because something is unknown; want %d and none", calls, unknown, len(leavers))
	}
	s.waits(drain)

	s.hangUpOn(leavers...)
	last := time.Now()
	s.ends(drain, inTime)
	s.gone(soon, leavers...)
	for _, pod := range leavers {
		took := s.watch.since(pod, call.Released).Sub(last)
		t.Logf("pod %s was released %.1f s after its last call; LiveKit had %v requests of the guard until then, and %v for it", pod, took.Seconds(), before, requests()-before)
		if took > releaseLate {
			t.Errorf("pod %s was released %s after its last call; want at most %s", pod, took, releaseLate)
		}
	}
	s.noneDropped()
}
