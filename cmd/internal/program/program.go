// SPDX-License-Identifier: Apache-2.0

// Package program contains start-up code shared by the programs: signals, flags and
// their validation, trusted authorities, logging, the metrics registry.
//
// It does not depend on any of the programs, and has no defaults for them.
package program

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"
)

// Main runs a program until it is done or a signal ends it, and returns its exit
// status.
func Main(name string, run func(context.Context) error) int {
	trust()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// LogLevel is the value of --log-level.
type LogLevel string

// AddFlag adds --log-level to the flags of a program.
func (l *LogLevel) AddFlag(fs *pflag.FlagSet) {
	fs.StringVar((*string)(l), "log-level", string(*l), "debug, info, warn or error.")
}

// Validate returns nil for a valid level.
func (l LogLevel) Validate() error {
	_, err := l.level()
	return err
}

// Logger returns a logger that writes to w from this level on.
func (l LogLevel) Logger(w io.Writer) (*slog.Logger, error) {
	level, err := l.level()
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}

func (l LogLevel) level() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l)); err != nil {
		return level, fmt.Errorf("--log-level is %q; use debug, info, warn or error", string(l))
	}
	return level, nil
}

// NewRegistry returns a registry with the metrics that every process has.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}
