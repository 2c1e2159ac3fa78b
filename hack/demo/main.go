// SPDX-License-Identifier: Apache-2.0

// Command demo shows callguard scale voice agents on their calls: it starts a
// Kubernetes cluster with LiveKit on this machine (package test/lab), lets about
// thirty callers come and go, and shows what the autoscaler does meanwhile. Then it
// drains three nodes in mid-call, side by side: with callguard, with the
// PodDisruptionBudget that people use today, and with that and an hour of grace.
//
// Nodes are simulated and the agents' processes are played by this program, over
// LiveKit's real worker protocol. It leaves nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
)

const interrupted = 130 // a shell's exit code for a program that Ctrl-C ended

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	signal.Ignore(syscall.SIGPIPE)                   // a closed pipe must not leave a cluster behind
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // the show leaves out the API server's warnings about unguarded pods
	err := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	case errors.Is(err, context.Canceled) && !errors.Is(err, errNotCleared):
		_, _ = fmt.Fprintln(os.Stderr, "interrupted")
		return interrupted
	default:
		_, _ = fmt.Fprint(os.Stderr, fold(fmt.Sprintf("error: %v\n", err), columns))
		return 1
	}
}
