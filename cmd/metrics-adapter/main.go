// SPDX-License-Identifier: Apache-2.0

// Command metrics-adapter serves active_calls in custom.metrics.k8s.io from
// LiveKit's room state, so that a HorizontalPodAutoscaler scales on calls.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of authorities of its own

	"github.com/callguard/callguard/cmd/metrics-adapter/app"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "metrics-adapter: %v\n", err)
		return 1
	}
	return 0
}
