// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"testing"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"

	"github.com/callguard/callguard/test/trial"
)

// TestLoad tells the load that the worker reports, and none that it does not report.
func TestLoad(t *testing.T) {
	p := newPair(t, nil)
	update := func(status livekit.WorkerStatus, load float32) *livekit.WorkerMessage {
		return &livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{Status: &status, Load: load}}}
	}
	if a := p.gate.calls(t); a.Load != nil {
		t.Errorf("no worker has reported a load, and it says %v", *a.Load)
	}
	for _, tc := range []struct {
		reason string
		said   *livekit.WorkerMessage
		want   any
	}{
		{"A load is told as it is, without the digits of a float32.", update(livekit.WorkerStatus_WS_AVAILABLE, 0.35), 0.35},
		{"An idle worker reports zero.", update(livekit.WorkerStatus_WS_AVAILABLE, 0), 0.0},
		{"A load function may exceed what is full.", update(livekit.WorkerStatus_WS_FULL, 1.2), 1.0},
		{"Node's worker that ends says that it is full, and no load.", update(livekit.WorkerStatus_WS_FULL, 0), nil},
		{"Less than nothing is no load.", update(livekit.WorkerStatus_WS_AVAILABLE, -1), nil},
		{"It may report one again.", update(livekit.WorkerStatus_WS_AVAILABLE, 0.5), 0.5},
	} {
		f, err := write(websocket.BinaryMessage, tc.said)
		trial.Must(t, err)
		send(t, p.agent, f)
		next(t, p.server) // what the gate has passed on it has read
		var got any
		if load := p.gate.calls(t).Load; load != nil {
			got = *load
		}
		if got != tc.want {
			t.Errorf("%s It says %v, want %v", tc.reason, got, tc.want)
		}
	}
	_ = p.agent.Close()
	trial.Eventually(t, "the load of a worker that is gone is gone", func() bool { return p.gate.calls(t).Load == nil })
}
