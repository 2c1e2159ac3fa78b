// SPDX-License-Identifier: Apache-2.0

//go:debug x509usefallbackroots=1

// Command call-gate runs beside an unmodified LiveKit agent, counts its calls exactly, and
// refuses new ones once its pod is ordered to drain.
package main

import (
	"context"
	"os"

	"github.com/callguard/callguard/cmd/call-gate/app"
	"github.com/callguard/callguard/cmd/internal/program"
)

func main() {
	os.Exit(program.Main("call-gate", func(ctx context.Context) error {
		return app.Main(ctx, os.Args[1:], os.Getenv, os.Stderr)
	}))
}
