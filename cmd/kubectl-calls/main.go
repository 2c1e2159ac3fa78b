// SPDX-License-Identifier: Apache-2.0

// Command kubectl-calls shows the calls that pods hold, and drains nodes without
// losing one. kubectl finds it as the plugin "calls".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // authorities, if the machine has none, as in callguard's image
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's ways to log in

	"github.com/callguard/callguard/pkg/cli"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer context.AfterFunc(ctx, stop)() // a second signal ends the program at once
	defer stop()
	return cli.Main(ctx, cli.Args(os.Args[0], os.Args[1:]), genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
}
