// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/callguard/callguard/test/lab"
)

// load counts the answers to clients that list at once.
type load struct {
	clients int
	lasted  time.Duration
	took    []time.Duration
	memory  memory
}

func (l load) String() string {
	return fmt.Sprintf("%d clients that list active_calls of every pod: %.1f lists/s, p50 %s, p99 %s\nmetrics-adapter under that load: %s\n",
		l.clients, float64(len(l.took))/l.lasted.Seconds(), ms(percentile(l.took, 50)), ms(percentile(l.took, 99)), l.memory)
}

// underLoad runs clients that list without a pause. The peak of the memory is that of the
// adapter's whole life.
func (b *bench) underLoad(ctx context.Context) (load, error) {
	b.printf(b.progress, "%d clients list for %s\n", b.clients, b.load)
	l := load{clients: b.clients}
	start := time.Now()
	listing, stop := context.WithDeadline(ctx, start.Add(b.load))
	defer stop()
	group, listing := errgroup.WithContext(listing)
	var mu sync.Mutex
	for range b.clients {
		c, err := newClient(b.stage.Config) // with its own connections
		if err != nil {
			return l, err
		}
		group.Go(func() error {
			for listing.Err() == nil {
				asked := time.Now()
				_, err := c.do(listing, request{path: metricsOfPods("*"), accept: asJSON}, io.Discard)
				if listing.Err() != nil {
					return nil //nolint:nilerr // the time ran out during an answer
				}
				if err != nil {
					return err
				}
				mu.Lock()
				l.took = append(l.took, time.Since(asked))
				mu.Unlock()
			}
			return nil
		})
	}
	if b.profiles != "" {
		group.Go(func() error { return b.profile(listing) })
	}
	err := group.Wait()
	l.lasted = time.Since(start)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return l, fmt.Errorf("listing broke off: %w", err)
	}
	l.memory, err = memoryOf(b.stage.Adapter.PID)
	return l, err
}

// start is an adapter that starts when all pods exist.
type start struct {
	ready  time.Duration
	memory memory
}

func (s start) String() string {
	return fmt.Sprintf("metrics-adapter started with all pods there: ready and complete after %.1f s, %s\n", s.ready.Seconds(), s.memory)
}

// afterStart starts a second adapter, whose informers list all pods at once.
func (b *bench) afterStart(ctx context.Context) (s start, err error) {
	b.printf(b.progress, "starting another metrics-adapter\n")
	began := time.Now()
	a, err := b.stage.StartAdapter(ctx, "--webhook-bind-address=")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, a.Stop()) }()
	config, err := b.stage.Direct(ctx, a)
	if err != nil {
		return s, err
	}
	config.Insecure, config.CAData = true, nil // only its memory matters
	c, err := newClient(config)
	if err != nil {
		return s, err
	}
	err = lab.Eventually(ctx, time.Minute, "the other metrics-adapter serves", func() (bool, error) {
		_, err := c.get(ctx, metricsOfPods("*"), asJSON)
		return err == nil, err
	})
	if err != nil {
		return s, err
	}
	s.ready = time.Since(began)
	s.memory, err = memoryOf(a.PID)
	return s, err
}

// profile writes the adapter's CPU profile and its heap.
func (b *bench) profile(ctx context.Context) error {
	config, err := b.stage.Direct(ctx, b.stage.Adapter)
	if err != nil {
		return err
	}
	c, err := newClient(config)
	if err != nil {
		return err
	}
	seconds := max(1, int(b.load.Seconds()/2))
	for _, p := range [][2]string{{"cpu", fmt.Sprintf("profile?seconds=%d", seconds)}, {"heap", "heap"}, {"allocs", "allocs"}} {
		body, err := c.get(ctx, "/debug/pprof/"+p[1], "*/*")
		if err != nil {
			return fmt.Errorf("no profile of the metrics-adapter: %w", err)
		}
		if err := os.WriteFile(filepath.Join(b.profiles, p[0]+".pprof"), body, 0o600); err != nil {
			return fmt.Errorf("cannot write a profile: %w; give --profiles a folder that is there", err)
		}
	}
	return nil
}
