// SPDX-License-Identifier: Apache-2.0

// Command drain-guard keeps drains, rollouts and scale-downs from ending calls.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of authorities of its own

	"github.com/callguard/callguard/cmd/drain-guard/app"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "drain-guard: %v\n", err)
		return 1
	}
	return 0
}
