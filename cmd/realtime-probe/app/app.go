// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/realtime"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/pkg/witness/poll"
)

// gcPercent trades a little CPU for memory: there is a probe in each pod.
const gcPercent = 30

// How the gate is asked, which is in the same pod.
const (
	callsInterval  = 2 * time.Second
	callsStaleness = 3 * callsInterval
	callsTimeout   = time.Second
)

// Main runs the probe until ctx is done.
func Main(ctx context.Context, args []string, env func(string) string, stderr io.Writer) error {
	o := NewOptions(env)
	if ok, err := program.Parse(args, o, "settings are flags, see --help", stderr); !ok {
		return err
	}
	log, err := o.logLevel.Logger(stderr)
	if err != nil {
		return err
	}
	if env("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return run(ctx, o, log)
}

func run(ctx context.Context, o *Options, log *slog.Logger) error {
	ca, err := program.ReadFile("ca-file", o.caFile)
	if err != nil {
		return err
	}
	registry := program.NewRegistry()
	pod, err := o.pod()
	if err != nil {
		return err
	}
	var asked *gate.Reader
	cfg := realtime.Config{
		BaseURL: o.baseURL, Model: o.model, Deployment: o.deployment, APIVersion: o.apiVersion,
		KeyFile: o.keyFile, AuthHeader: realtime.AuthHeader(o.authHeader), Organization: o.organization, Project: o.project, CA: ca,
		Interval: o.interval, Timeout: o.timeout,
		Rules:    realtime.Rules{Strict: o.mode == modeStrict, Grace: o.grace, FatalAfter: o.fatalAfter},
		Registry: registry, Log: log,
	}
	if pod != nil {
		asked = gate.NewLenientReader(poll.Config{
			Pod:      func(types.UID) *call.Pod { return pod },
			Interval: callsInterval, MaxStaleness: callsStaleness, Timeout: callsTimeout, Concurrency: 1,
			Registry: registry,
		})
		cfg.Calls = func(now time.Time) call.Reading { return asked.Reading(pod, now) }
	}
	base, err := realtime.ParseBaseURL(o.baseURL)
	if err != nil {
		return err
	}
	prober, err := realtime.New(cfg)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("cannot listen: %w; choose another --bind-address", err)
	}
	log.Info("Probing the Realtime API", "host", base.Host, "model", o.model, "mode", o.mode, "address", listener.Addr().String())
	group, ctx := errgroup.WithContext(ctx)
	if asked != nil {
		asked.Watch(pod.UID)
		group.Go(func() error { return asked.Run(ctx) })
	}
	group.Go(func() error { return prober.Run(ctx, listener) })
	return group.Wait()
}
