// SPDX-License-Identifier: Apache-2.0

// Command release makes everything that a release of callguard publishes, from this
// checkout: the image for each platform, both charts, the plugin, their bills of
// materials and checksums. It pushes image and charts to a registry on loopback that runs
// as long as the command, signs them there and checks what users will check. It publishes
// nothing, and connects to no other machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}
