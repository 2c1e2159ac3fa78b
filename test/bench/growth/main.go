// SPDX-License-Identifier: Apache-2.0

// Command growth measures how callguard's costs grow with a cluster: Go benchmarks of its
// hot paths with more and more pods, autoscalers, Deployments and rooms. For each it
// measures processor time or memory, and the exponent of its growth. It fails when one
// grows faster, or is larger, than docs/figures/growth.md promises.
//
// The benchmarks are next to what they measure, and use neither a cluster nor a network.
// Package test/bench measures a whole control plane.
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
)

const interrupted = 130 // a shell's exit code for a program that Ctrl-C ended

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(os.Stderr, "interrupted:", err)
		return interrupted
	default:
		_, _ = fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
}

// command measures everything, writes the page, and returns which limits do not hold.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := pflag.NewFlagSet("growth", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	folder := flags.String("write", "", "folder that growth.md and growth.svg are written into, such as docs/figures; empty for none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; settings are flags, see --help", flags.Arg(0))
	}
	measured := results{}
	for _, s := range suites() {
		if err := s.run(ctx, measured, stderr); err != nil {
			return err
		}
	}
	rows, err := fitted(measured)
	if err != nil {
		return err
	}
	compared, err := compare(measured)
	if err != nil {
		return err
	}
	text := page(rows, compared)
	if _, err := io.WriteString(stdout, text); err != nil {
		return err
	}
	if *folder != "" {
		if err := write(*folder, text, plot(rows)); err != nil {
			return err
		}
	}
	return judge(rows, compared)
}

// write writes the page and its picture to a folder, which it creates.
func write(folder, text, picture string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // everybody may read it
		return fmt.Errorf("cannot write the figures: %w; give --write a folder that can be made", err)
	}
	for name, content := range map[string]string{"growth.md": text, "growth.svg": picture} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil { //nolint:gosec // everybody may read it
			return fmt.Errorf("cannot write the figures: %w; give --write a folder that may be written", err)
		}
	}
	return nil
}
