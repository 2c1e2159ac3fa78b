// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"
)

// asProbe in the environment makes the test's binary run as the program, because Go reads
// the proxy variables once per process.
const asProbe = "CALLGUARD_TEST_AS_PROBE"

func TestMain(m *testing.M) {
	if os.Getenv(asProbe) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := Main(ctx, os.Args[1:], os.Getenv, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
