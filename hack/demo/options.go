// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/test/fleet"
)

const (
	mostReplicas    = 10
	callsPerReplica = 5 // what lab's autoscaler aims at
)

// options are what the flags say.
type options struct {
	keep       bool
	programs   string
	picture    string
	dashboard  string
	calls      int
	ramp, hold time.Duration
}

func newOptions() *options {
	return &options{calls: 30, ramp: 35 * time.Second, hold: 20 * time.Second}
}

// parse reads and checks the flags.
func (o *options) parse(args []string, stderr io.Writer) error {
	flags := pflag.NewFlagSet("demo", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.keep, "keep", o.keep, "go on after the summary, with a few calls up; kubectl can look around")
	flags.StringVar(&o.programs, "programs", o.programs, "folder of callguard's programs, as \"make build\" makes it; without it they are built")
	flags.StringVar(&o.picture, "picture", o.picture, "file to write an SVG picture of the drains to")
	flags.StringVar(&o.dashboard, "dashboard", o.dashboard, "file to write an SVG of the chart's dashboard to, as it is during the drains; needs prometheus on the PATH")
	flags.IntVar(&o.calls, "calls", o.calls, "calls at the peak")
	flags.DurationVar(&o.ramp, "ramp", o.ramp, "how long it takes to get to the peak, and down again")
	flags.DurationVar(&o.hold, "hold", o.hold, "how long the peak lasts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; settings are flags, such as --keep", flags.Arg(0))
	}
	return o.validate()
}

// validate reports every mistake at once, each with a value that would work.
func (o *options) validate() error {
	var errs []error
	if most := mostReplicas * callsPerReplica; o.calls < 1 || o.calls > most {
		errs = append(errs, fmt.Errorf("--calls is %d; use 1 to %d, such as 30", o.calls, most))
	}
	// A replica accepts 14 calls, and two seconds may pass until the autoscaler checks.
	if least := time.Duration(o.calls) * 500 * time.Millisecond; o.ramp < least || o.ramp > time.Minute {
		errs = append(errs, fmt.Errorf("--ramp is %s; use %s to 1m, such as 35s, so that new agents are there in time and old ones finish their calls", o.ramp, least))
	}
	if o.hold < 20*time.Second || o.hold > 10*time.Minute {
		errs = append(errs, fmt.Errorf("--hold is %s; use 20s to 10m, such as 20s, so that the autoscaler gets there", o.hold))
	}
	return errors.Join(errs...)
}

// plan is the load of the show.
func (o *options) plan() fleet.Plan {
	return fleet.Plan{Steps: []fleet.Step{{Calls: o.calls, Over: o.ramp}, {Calls: o.calls, Over: o.hold}, {Calls: 0, Over: o.ramp}}}
}

// afterwards is the load while the stage is kept.
func afterwards() fleet.Plan {
	const few, days = 7, 30 * 24 * time.Hour
	return fleet.Plan{Rooms: "kept", Steps: []fleet.Step{{Calls: few, Over: few * time.Second}, {Calls: few, Over: days}}}
}
