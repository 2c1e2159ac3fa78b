// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/callguard/callguard/test/lab"
)

const (
	clearWithin  = time.Minute
	settleWithin = 3 * time.Minute // an agent that is deleted finishes its calls first
)

var errNotCleared = errors.New("cannot clear the stage")

// command sets up the stage, plays the show and cleans up.
func command(ctx context.Context, args []string, stdin, stdout *os.File, stderr io.Writer) (err error) {
	o := newOptions()
	if err := o.parse(args, stderr); err != nil {
		return err
	}
	progress := newPulse(stderr)
	quiet := progress.start()
	defer quiet()
	began := time.Now()
	_, _ = fmt.Fprintln(progress, "setting the stage")
	// LiveKit offers no call to an agent above 70 % of its load: 14 of 20.
	stage, err := lab.Open(ctx, lab.Options{Name: "demo", Nodes: nodesOfSides, MaxJobs: 20, Programs: o.programs, Progress: progress})
	if err != nil {
		return interruptedOr(ctx, fmt.Errorf("cannot set the stage: %w", err))
	}
	defer func() {
		stop := progress.start()
		defer stop()
		_, _ = fmt.Fprintln(progress, "clearing the stage")
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearWithin)
		defer cancel()
		if closing := stage.Close(last); closing != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w; try \"go run ./hack/cluster down --name demo\"", errNotCleared, closing))
		}
	}()
	d, err := newDashboard(ctx, o.dashboard, stage)
	defer func() { err = errors.Join(err, d.close()) }()
	if err != nil {
		return interruptedOr(ctx, err)
	}
	_, _ = fmt.Fprintln(progress, "starting the first agent and its autoscaler")
	w, err := newWatch(stage)
	if err != nil {
		return err
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(progress, "making one call: kubectl calls try")
	tried, err := w.tryOnce(ctx)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	quiet() // the screen has the word
	s := newScreen(stdout)
	s.print(tried)
	faults := show(ctx, o, w, s)
	if ctx.Err() != nil {
		return faults
	}
	quiet = progress.start()
	s.watch = o.picture != ""
	faults = errors.Join(faults, secondAct(ctx, stage, s, progress, d, func() { quiet() }))
	if ctx.Err() != nil {
		return faults
	}
	if o.picture != "" {
		faults = errors.Join(faults, writePicture(o.picture, s.frames))
	}
	faults = errors.Join(faults, d.write(ctx))
	s.print(fmt.Sprintf("all of it took %s\n", clock(time.Since(began))))
	if o.keep {
		faults = errors.Join(faults, keep(ctx, w, s, stdin, progress))
	}
	return faults
}

// show plays the calls of the first act, shows what happens and judges it.
func show(ctx context.Context, o *options, w *watch, s *screen) error {
	playing, stop := context.WithCancel(ctx)
	played := make(chan error, 1)
	go func() { played <- w.stage.Callers.Play(playing, o.plan()) }()
	a, err := follow(playing, w, s, played)
	stop()
	if err != nil {
		return err
	}
	r := w.stage.Callers.Report()
	s.print(summary(a, r))
	return judge(a, r)
}

// follow shows a snapshot twice a second until the calls are over and one pod
// is left, or that takes too long, which the account tells. It returns after
// the player has.
func follow(ctx context.Context, w *watch, s *screen, played chan error) (*account, error) {
	a := &account{}
	start := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var deadline <-chan time.Time
	over := false
	for {
		snap, err := w.look(ctx, time.Since(start))
		if err == nil {
			a.add(snap)
			s.show(snap)
		}
		if err == nil && over && snap.settled() {
			return a, nil
		}
		select {
		case err := <-played:
			if err != nil {
				return nil, err
			}
			over, played, deadline = true, nil, time.After(settleWithin)
		case <-deadline:
			return a, err
		case <-ctx.Done():
			if played == nil {
				return nil, ctx.Err()
			}
			return nil, errors.Join(ctx.Err(), <-played)
		case <-tick.C:
		}
	}
}
