// SPDX-License-Identifier: Apache-2.0

// Package e2e tests callguard as its users see it: a real control plane, a real
// LiveKit, the metrics-adapter as a process with the rights of its own service
// account. Only nodes are simulated, and the agents' processes are played by
// test/fleet over LiveKit's real worker protocol.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/callguard/callguard/test/lab"
)

// stage is shared by all tests of the package; each has its own namespaces. Those with
// callers run first, one after the other, because LiveKit gives a call to any agent; then
// all others run in parallel, because they mostly wait.
var stage *lab.Lab

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // they wait, whatever the number of processors
		fmt.Fprintf(os.Stderr, "cannot test side by side: %v\n", err)
		return 1
	}
	var err error
	stage, err = lab.Open(ctx, lab.Options{Name: lab.InstanceName("e2e"), Nodes: 4, LiveKits: 3, MaxJobs: 50, Progress: os.Stderr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot set the stage: %v\n", err)
		return 1
	}
	code := m.Run()
	if leaks, read, err := stage.Leaks(ctx); err != nil || len(leaks) > 0 || read == 0 {
		fmt.Fprintf(os.Stderr, "of %d texts that callguard said, these tell what is not for everybody: %v\n%s\n", read, err, strings.Join(leaks, "\n"))
		code = 1
	}
	if err := stage.Close(context.WithoutCancel(ctx)); err != nil {
		fmt.Fprintf(os.Stderr, "cannot clear the stage: %v\n", err)
		return 1
	}
	return code
}
