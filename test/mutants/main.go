// SPDX-License-Identifier: Apache-2.0

// Command mutants breaks callguard on purpose, one change at a time, and reports whether the test that should
// notice it fails. If it passes, the mutant survives, and the test is too weak.
//
// Nothing in the repository is changed: each test is compiled with `go build -overlay`, which replaces one file.
// Mutants of the admission policies are installed into a local cluster by test/doors; they need --policies.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		_, _ = fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

func command(ctx context.Context, args []string) error {
	var o options
	flags := pflag.NewFlagSet("mutants", pflag.ContinueOnError)
	flags.StringSliceVar(&o.only, "only", nil, "run only mutants whose names begin so, such as gate/,idle/unknown")
	flags.BoolVar(&o.policies, "policies", false, "run the mutants of the admission policies, each on a local cluster, and no others")
	if err := flags.Parse(args); err != nil {
		return err
	}
	mutants, err := o.choose(Catalogue())
	if err != nil {
		return err
	}
	r, err := newRunner(ctx, os.Stdout)
	if err != nil {
		return err
	}
	defer r.close()
	return r.runAll(ctx, mutants)
}
