// SPDX-License-Identifier: Apache-2.0

// Command notices prints the licences and notices of every module that is linked
// into the programs of this checkout, on any platform they are built for.
// It fails if the licence of one does not permit that.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/callguard/callguard/hack/licences"
	"github.com/callguard/callguard/hack/oci"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	modules, err := licences.Linked(ctx, ".", oci.Platforms(), "./cmd/...")
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	if _, err := os.Stdout.WriteString(licences.Notices(modules)); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}
