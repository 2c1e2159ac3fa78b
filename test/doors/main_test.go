// SPDX-License-Identifier: Apache-2.0

// Package doors tests the admission policies ("doors") on a real control plane, expression
// by expression: who may do what to a guarded pod in which state. No process of callguard
// runs; the tests act as drain-guard's account, and as everybody else's.
package doors

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// stage is the cluster that all tests of the package share. Each test has its own
// namespaces.
var stage *cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	stage, err = open(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot set the stage: %v\n", err)
		return 1
	}
	code := m.Run()
	if err := stage.Down(context.WithoutCancel(ctx)); err != nil {
		fmt.Fprintf(os.Stderr, "cannot clear the stage: %v\n", err)
		return 1
	}
	return code
}
