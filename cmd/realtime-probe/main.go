// SPDX-License-Identifier: Apache-2.0

//go:debug x509usefallbackroots=1

// Command realtime-probe runs beside a LiveKit agent and tells a readiness probe whether
// OpenAI's Realtime API accepts sessions with the pod's key and model.
package main

import (
	"context"
	"os"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/cmd/realtime-probe/app"
)

func main() {
	os.Exit(program.Main("realtime-probe", func(ctx context.Context) error {
		return app.Main(ctx, os.Args[1:], os.Getenv, os.Stderr)
	}))
}
