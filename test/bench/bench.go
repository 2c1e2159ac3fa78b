// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/callguard/callguard/test/lab"
)

// Limits that must hold.
const (
	shareOfNative   = 0.03
	shareOfMetadata = 0.25
	mostMemory      = 200 << 20
)

// command sets up the stage, measures and cleans up.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o := newOptions()
	if err := o.parse(args, stderr); err != nil {
		return err
	}
	stage, err := lab.Open(ctx, lab.Options{
		Name: "bench", Nodes: nodes, PodsPerNode: podsPerNode, NoFleet: true, Progress: stderr,
		ControllerManagerArgs: []string{"--kube-api-qps=1000", "--kube-api-burst=2000", "--concurrent-replicaset-syncs=20"},
	})
	if err != nil {
		return fmt.Errorf("cannot set the stage: %w", err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if closing := stage.Close(last); closing != nil {
			err = errors.Join(err, fmt.Errorf("cannot clear the stage: %w; try \"go run ./hack/cluster down --name bench\"", closing))
		}
	}()
	b := &bench{options: o, stage: stage, out: stdout, progress: stderr}
	if b.http, err = newClient(stage.Config); err != nil {
		return err
	}
	pods, err := b.populate(ctx)
	if err != nil {
		return err
	}
	leave, err := b.call(ctx, pods)
	defer leave()
	if err != nil {
		return err
	}
	return b.measure(ctx, pods[0].Name)
}

// bench is a stage with pods on it.
type bench struct {
	*options

	stage         *lab.Lab
	http          *client
	out, progress io.Writer
}

// measure takes all measurements and reports which limits do not hold.
func (b *bench) measure(ctx context.Context, pod string) error {
	results, err := b.compare(ctx, requests(pod))
	if err != nil {
		return err
	}
	b.printf(b.out, "\n%s\n", table(results))
	faults := judge(results)

	under, err := b.underLoad(ctx)
	if err != nil {
		return errors.Join(faults, err)
	}
	fresh, err := b.afterStart(ctx)
	if err != nil {
		return errors.Join(faults, err)
	}
	b.printf(b.out, "%s%s", under, fresh)
	return errors.Join(faults, under.memory.judge("under load"), fresh.memory.judge("after a start with all pods there"))
}

func (b *bench) printf(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...) // failing to print progress is no reason to stop
}
