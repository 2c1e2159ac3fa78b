// SPDX-License-Identifier: Apache-2.0

//go:debug x509usefallbackroots=1

// Command drain-guard keeps drains, rollouts and scale-downs from ending calls.
package main

import (
	"context"
	"os"

	"github.com/callguard/callguard/cmd/drain-guard/app"
	"github.com/callguard/callguard/cmd/internal/program"
)

func main() {
	os.Exit(program.Main("drain-guard", func(ctx context.Context) error {
		return app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}
