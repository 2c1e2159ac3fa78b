// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"runtime/debug"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/callgate"
)

// gcPercent trades a little CPU for memory: there is a gate in each pod.
const gcPercent = 30

// Main runs the gate until ctx is done.
func Main(ctx context.Context, args []string, env func(string) string, stderr io.Writer) error {
	o := NewOptions(env)
	if ok, err := program.Parse(args, o, "settings are flags, see --help", stderr); !ok {
		return err
	}
	log, err := o.logLevel.Logger(stderr)
	if err != nil {
		return err
	}
	// net/http logs unexpected input here.
	stdlog.SetOutput(callgate.Discreet{Log: log})
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
	g, err := callgate.New(callgate.Config{
		Upstream: o.livekitURL, CA: ca, Pod: o.pod(),
		Order: o.orderFile, Journal: o.journal, Workers: o.workerURLs(),
		LaunchLimit: o.launchLimit,
		APIKey:      o.apiKey, APISecret: o.apiSecret, RequestsPerMinute: o.perMinute,
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
	log.Info("Listening", "agent", agent.Addr().String(), "status", status.Addr().String(), "livekit", o.livekitURL)
	return g.Run(ctx, agent, status)
}
