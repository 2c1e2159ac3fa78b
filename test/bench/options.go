// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"
)

const (
	nodes       = 10
	podsPerNode = 600
)

// options are the values of the flags.
type options struct {
	pods, calls, rounds, clients int
	load                         time.Duration
	profiles                     string
}

func newOptions() *options {
	return &options{pods: 5000, calls: 200, rounds: 30, clients: 8, load: 20 * time.Second}
}

// parse parses and validates the flags.
func (o *options) parse(args []string, stderr io.Writer) error {
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.pods, "pods", o.pods, "guarded pods; the promise is about 5000, with few the cost of a request as such shows")
	flags.IntVar(&o.calls, "calls", o.calls, "calls, each with an agent that really is in its room")
	flags.IntVar(&o.rounds, "rounds", o.rounds, "how often each request is measured")
	flags.IntVar(&o.clients, "clients", o.clients, "clients that list at once")
	flags.DurationVar(&o.load, "load", o.load, "how long they do")
	flags.StringVar(&o.profiles, "profiles", o.profiles, "folder for CPU and heap profiles of the metrics-adapter under load; empty for none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; settings are flags, see --help", flags.Arg(0))
	}
	return o.validate()
}

// validate reports every mistake at once, each with a value that would work.
func (o *options) validate() error {
	var errs []error
	between := func(flag string, is, least, most, good int) {
		if is < least || is > most {
			errs = append(errs, fmt.Errorf("--%s is %d; use %d to %d, such as %d", flag, is, least, most, good))
		}
	}
	between("pods", o.pods, 1, nodes*podsPerNode, 5000)
	between("calls", o.calls, 0, 500, 200)
	between("rounds", o.rounds, 1, 1000, 30)
	between("clients", o.clients, 1, 100, 8)
	if o.load < time.Second || o.load > 10*time.Minute {
		errs = append(errs, fmt.Errorf("--load is %s; use 1s to 10m, such as 20s", o.load))
	}
	return errors.Join(errs...)
}
