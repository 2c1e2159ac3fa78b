// SPDX-License-Identifier: Apache-2.0

// Command image builds the image of callguard from this checkout, without a container
// engine: every program, static, and nothing else. The same checkout and the same Go
// produce the same digest, which it prints. It pushes nothing; hack/release does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/hack/oci"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

func command(ctx context.Context, args []string, out io.Writer) error {
	flags := pflag.NewFlagSet("image", pflag.ContinueOnError)
	output := flags.String("output", "_output/callguard.tar", "file to write, in the format of docker save")
	ref := flags.String("tag", "callguard:dev", "name of the image in that file")
	arch := flags.String("arch", oci.LocalArch, "architecture: amd64 or arm64")
	if err := flags.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w; \"go run ./hack/image --help\" lists the flags", err)
	}
	dir, err := os.MkdirTemp("", "callguard-image-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for the programs: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	image, err := oci.Programs(ctx, ".", dir, *arch, oci.Development)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*output), 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of %s: %w", *output, err)
	}
	digest, err := image.Write(*output, *ref)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n%s@%s\n", *output, *ref, digest)
	return err
}
