// SPDX-License-Identifier: Apache-2.0

// Command realtime-probe runs beside a LiveKit agent and tells a readiness probe
// whether OpenAI's Realtime API takes sessions with the pod's key and model.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of authorities of its own

	"github.com/callguard/callguard/cmd/realtime-probe/app"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app.Main(ctx, os.Args[1:], os.Getenv, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "realtime-probe: %v\n", err)
		return 1
	}
	return 0
}
