// SPDX-License-Identifier: Apache-2.0

//go:debug x509usefallbackroots=1

// Command metrics-adapter serves active_calls in custom.metrics.k8s.io from LiveKit's room
// state, so that HorizontalPodAutoscalers can scale on calls.
package main

import (
	"context"
	"os"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/cmd/metrics-adapter/app"
)

func main() {
	os.Exit(program.Main("metrics-adapter", func(ctx context.Context) error {
		return app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}
