// SPDX-License-Identifier: Apache-2.0

// Command bench measures what it costs when an autoscaler reads calls from the custom
// metrics API, compared with listing the pods themselves: 5,000 guarded pods of one
// Deployment, a few hundred calls, a real control plane and a real LiveKit on this machine
// (package test/lab).
//
// Every answer is read completely but not parsed, so that the servers are measured and not
// this client. It fails when a list of the metrics takes longer than three hundredths of a
// list of the pods or a quarter of a list of their metadata, or when the metrics-adapter
// needs 200 MiB.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

const interrupted = 130 // a shell's exit code for a program that Ctrl-C ended

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // a closed pipe must not leave a cluster behind
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(os.Stderr, "interrupted:", err)
		return interrupted
	default:
		_, _ = fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
}
