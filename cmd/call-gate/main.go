// SPDX-License-Identifier: Apache-2.0

// Command call-gate runs beside an unmodified LiveKit agent, counts its calls
// exactly, and lets no new one in once its pod is ordered to drain.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of authorities of its own

	"github.com/callguard/callguard/cmd/call-gate/app"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app.Main(ctx, os.Args[1:], os.Getenv, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "call-gate: %v\n", err)
		return 1
	}
	return 0
}
