// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

// replica is one of several adapters at a LiveKit.
type replica struct {
	*Reader

	stop func()
}

// replicaAt starts an adapter at a project of LiveKit Cloud, with its part of the adapters' share, or, without a
// number of replicas, with as many requests as an earlier version sent.
func replicaAt(t *testing.T, lk *fakeLiveKit, replicas func() int) replica {
	t.Helper()
	cfg := Config{
		Project: call.DefaultProject,
		Credentials: func(context.Context) (livekit.Credentials, error) {
			return livekit.Credentials{URL: "wss://voice-1a2b.livekit.cloud", APIKey: "key", APISecret: "secret"}, nil
		},
		Transport: direct{lk},
		Metrics:   NewMetrics(prometheus.NewRegistry()),
		Log:       slog.New(slog.DiscardHandler),
	}
	asAdapter(&cfg)
	cfg.Share = 60
	cfg.Pace = newPaces(cfg.Settings, replicas).of
	if replicas == nil {
		cfg.Pace = newPaces(Settings{RequestsPerMinute: 300}, nil).of
	}
	r := NewReader(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return replica{r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}}
}

// TestReplicasShareTheLimit: adapters come and go at a project of LiveKit Cloud. All of them know all of its rooms,
// and send no more than their part of its requests.
func TestReplicasShareTheLimit(t *testing.T) {
	const rooms, watched = 300, 10
	type phase struct{ former, present int } // adapters of an earlier version, which do not share, and of this one
	cases := map[string]struct {
		reason string
		phases []phase
		most   int // requests in any minute
	}{
		"ComeAndGo": {
			reason: "However many there are, together they have 60 of 100.",
			phases: []phase{{0, 1}, {0, 2}, {0, 3}, {0, 2}, {0, 1}, {0, 3}, {0, 1}}, most: 600,
		},
		"Upgrade": {
			reason: "While an earlier version is there, all that LiveKit takes is not too little.",
			phases: []phase{{2, 0}, {2, 1}, {1, 2}, {0, 2}}, most: 1_000,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				t.Cleanup(func() { time.Sleep(nobodyAnswers) }) // cancelled requests have ended
				lk := withRooms(rooms)
				lk.limit = tc.most
				var alive atomic.Int64
				count := func() int { return int(alive.Load()) }
				var former, present []replica
				// to runs the given number of them. All know about a new one before it sends requests, and about a leaving one
				// when it no longer does.
				to := func(running []replica, n int, replicas func() int) []replica {
					for len(running) > n {
						running[len(running)-1].stop()
						running = running[:len(running)-1]
					}
					for len(running) < n {
						running = append(running, replicaAt(t, lk, replicas))
					}
					return running
				}
				for _, p := range tc.phases {
					alive.Store(int64(max(p.former+p.present, len(former)+len(present))))
					former, present = to(former, p.former, nil), to(present, p.present, count)
					alive.Store(int64(p.former + p.present))
					for _, r := range slices.Concat(former, present) {
						soon(t, 5*time.Minute, "each knows all rooms", allRead(r.Reader, rooms))
					}
					throughout(t, 3*time.Minute, "they know them", func() bool {
						for _, r := range present {
							if !allRead(r.Reader, watched)() {
								return false
							}
						}
						return true
					})
				}
				to(former, 0, nil)
				to(present, 0, count)
				most, refused := lk.counted()
				t.Logf("at most %d requests in a minute", most)
				if most > tc.most || refused > 0 {
					t.Errorf("%s %d requests came in a minute and %d were refused; want no more than %d", tc.reason, most, refused, tc.most)
				}
			})
		})
	}
}
