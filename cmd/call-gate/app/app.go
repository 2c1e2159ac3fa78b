// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"

	"github.com/callguard/callguard/pkg/gate"
)

// gcPercent trades a little CPU for memory: there is a gate in every pod.
const gcPercent = 30

// Main runs the gate until ctx is done.
func Main(ctx context.Context, args []string, env func(string) string, stderr io.Writer) error {
	o := NewOptions(env)
	fs := o.Flags()
	fs.SetOutput(stderr)
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; settings are flags, see --help", fs.Arg(0))
	}
	if err := o.Validate(); err != nil {
		return fmt.Errorf("settings cannot be used:\n%w", err)
	}
	level, err := o.level()
	if err != nil {
		return err
	}
	if env("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return run(ctx, o, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))
}

func run(ctx context.Context, o *Options, log *slog.Logger) error {
	var ca []byte
	if o.caFile != "" {
		var err error
		if ca, err = os.ReadFile(o.caFile); err != nil {
			return fmt.Errorf("--ca-file: %w; name a file that can be read", err)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	g, err := gate.New(gate.Config{
		Upstream: o.livekitURL, CA: ca, Pod: o.pod(),
		Order: o.orderFile, Journal: o.journal, Workers: o.workerURLs(),
		APIKey: o.apiKey, APISecret: o.apiSecret,
		Registry: registry, Log: log,
	})
	if err != nil {
		return err
	}
	agent, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("cannot listen for the agent: %w; choose another --bind-address", err)
	}
	status, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.status)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot listen for callguard: %w; choose another --status-address", err), agent.Close())
	}
	log.Info("The gate is open", "agent", agent.Addr().String(), "status", status.Addr().String(), "livekit", o.livekitURL)
	return g.Run(ctx, agent, status)
}
