// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// The adapter's defaults, which these tests use.
const (
	resync       = 15 * time.Second
	maxStaleness = 45 * time.Second
)

// answer is one reading of a Deployment's active_calls.
type answer struct {
	at    time.Time
	calls int64
	err   error
}

// watchCalls reads active_calls ten times a second until stop is called.
func watchCalls(t *testing.T, ns string) (stop func() []answer) {
	t.Helper()
	client := metricsClient(t, stage.Config)
	ctx, cancel := context.WithCancel(t.Context())
	var answers []answer
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			at := time.Now()
			calls, err := callsOf(client, ns, lab.AgentName)
			answers = append(answers, answer{at, calls, err})
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	stop = sync.OnceValue(func() []answer {
		cancel()
		done.Wait()
		return answers
	})
	t.Cleanup(func() { stop() })
	return stop
}

// TestLiveKitDown kills LiveKit for a minute under load. The autoscaler may scale down at
// once, but must not.
func TestLiveKitDown(t *testing.T) {
	ns := namespace(t, "livekit-down")
	play(t, ns, 10, lab.ObjectForm(), 0)
	calls := dial(t, ns, 15)
	eventually(t, time.Minute, "3 replicas carry 15 calls", func() (bool, error) {
		n, err := replicas(t.Context(), ns)
		return n == 3, err
	})
	r := record(t, ns)
	stop := watchCalls(t, ns)

	livekit := local.LiveKitName(1)
	trial.Must(t, stage.Cluster.Kill(t.Context(), livekit))
	down := time.Now()
	client := metricsClient(t, stage.Config)
	eventually(t, maxStaleness+5*time.Second, "the metric answers 503 with the reason", func() (bool, error) {
		_, err := callsOf(client, ns, lab.AgentName)
		return apierrors.IsServiceUnavailable(err) && strings.Contains(err.Error(), "LiveKit project default was last read at") &&
			strings.Contains(err.Error(), "connection refused"), nil
	})
	stale := time.Since(down)
	eventually(t, 70*time.Second, "LiveKit has been down for a minute", func() (bool, error) { return time.Since(down) >= time.Minute, nil })
	if seen := r.seen(t); !slices.Equal(seen, []int32{3}) {
		t.Errorf("replicas went %v while LiveKit was down; want 3 throughout", seen)
	}
	for _, a := range stop() {
		if a.err == nil && a.calls < 15 {
			t.Errorf("%s after LiveKit was killed the metric said %d calls; want 15 or 503", a.at.Sub(down), a.calls)
			break
		}
	}

	trial.Must(t, stage.Cluster.Start(t.Context(), livekit))
	up := time.Now()
	eventually(t, resync, "the metric answers again within a resync", func() (bool, error) {
		_, err := callsOf(client, ns, lab.AgentName)
		return err == nil, err
	})
	t.Logf("503 after %.1f s, known again %.1f s after LiveKit was back", stale.Seconds(), time.Since(up).Seconds())
	hangUp(calls)
}

// TestLiveKitRestarts restarts LiveKit at once, empty as it is without Redis. The calls
// outlive that, since callers and agents come back by themselves, and meanwhile the
// metric must not say that they are over.
func TestLiveKitRestarts(t *testing.T) {
	ns := namespace(t, "livekit-restarts")
	play(t, ns, 10, lab.ObjectForm(), 0)
	calls := dial(t, ns, 10)
	eventually(t, time.Minute, "2 replicas carry 10 calls", func() (bool, error) {
		n, err := replicas(t.Context(), ns)
		return n == 2, err
	})
	r := record(t, ns)
	stop := watchCalls(t, ns)
	livekit := local.LiveKitName(1)
	trial.Must(t, stage.Cluster.Kill(t.Context(), livekit))
	trial.Must(t, stage.Cluster.Start(t.Context(), livekit))
	back := time.Now()
	eventually(t, 2*resync, "two resyncs have gone by", func() (bool, error) { return time.Since(back) > 2*resync-time.Second, nil })
	noneDropped(t, calls)
	unknown := 0
	for _, a := range stop() {
		switch {
		case a.err != nil:
			unknown++
		case a.calls < 10:
			t.Errorf("%s after the restart the metric said %d of 10 calls", a.at.Sub(back), a.calls)
		}
	}
	if seen := r.seen(t); slices.Min(seen) < 2 {
		t.Errorf("replicas went %v", seen)
	}
	t.Logf("%d of %d answers were 503", unknown, len(stop()))
	hangUp(calls)
	noneDropped(t, calls)
}
