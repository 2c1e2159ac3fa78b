// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/test/lab"
)

//nolint:gochecknoglobals // flags of the test
var (
	seed     = flag.Uint64("seed", 1, "which schedule to draw")
	duration = flag.Duration("duration", 10*time.Minute, "how long the schedule is")
	rate     = flag.Float64("rate", 1, "how many calls begin in a second, on average")
	pace     = flag.Float64("pace", 1, "how many times as close as usual disruptions and faults come")
	nodes    = flag.Int("nodes", Nodes, "how many nodes the stage has; larger ones have more agents, too")
	faults   = flag.Bool("faults", true, "have faults, and not disruptions only")
	replay   = flag.String("replay", "", "play this file, which a run wrote, instead of drawing a schedule")
	without  = flag.String("baseline", "", "have no callguard and no faults, but what people do without it: article, grace600, grace-drain-timeout, maxUnavailable0 or agones-like")
	tail     = flag.Duration("tail", 0, "by how much a drain may be longer than its longest call, if no fault is under way then; 0 for any")
	out      = flag.String("out", filepath.Join("..", "..", "_output", "soak"), "the folder of reports and replays")
)

const (
	// setUpWithin is how long the stage may take, with programs that are built, and settleWithin the drains that are left when the
	// last call is over.
	setUpWithin, settleWithin = 10 * time.Minute, 5 * time.Minute
	// playerGC has this process collect its garbage more rarely, which saves a tenth of what callers and agents cost. Programs under
	// test are as they are.
	playerGC = 400
	// lastly is for the report, and to clear the stage.
	lastly = 5 * time.Minute
)

// settles is how long the drains may take that are left. Those of a baseline may never end.
func settles(b Baseline) time.Duration {
	if b != "" {
		return 0
	}
	return settleWithin
}

// TestSoak plays a schedule. It ends by itself, at the first dropped call or when all drains are over, and takes all its
// processes with it.
func TestSoak(t *testing.T) {
	baseline, err := ParseBaseline(*without)
	if err != nil {
		t.Fatal(err)
	}
	schedule, err := theSchedule(baseline)
	if err != nil {
		t.Fatal(err)
	}
	most := setUpWithin + time.Duration(schedule.Duration) + answerWithin + 2*settleWithin + lastly
	if deadline, bounded := t.Deadline(); bounded && time.Until(deadline) < most {
		t.Fatalf("the run may take %s, and go test ends it after %s; add -timeout %s", most, time.Until(deadline).Round(time.Second), most)
	}
	dir, err := filepath.Abs(*out)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	debug.SetGCPercent(playerGC)
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // the policies' advice, with each change
	machine, err := machineBefore(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stage, err := lab.Open(ctx, lab.Options{
		Name: lab.InstanceName("soak"), Nodes: schedule.Nodes, MaxJobs: maxJobs(schedule, baseline), Seed: schedule.Seed, Progress: os.Stderr,
		NodeLeaseSeconds: nodeLeaseSeconds, ControllerManagerArgs: nodeArgs(), Linked: baseline == "", Guard: baseline == "", NoAdapter: baseline != "", GuardArgs: guardArgs(),
	})
	if err != nil {
		t.Fatalf("cannot set the stage: %v", err)
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastly)
		defer cancel()
		if err := stage.Close(last); err != nil {
			t.Errorf("cannot clear the stage: %v", err)
		}
	}()
	p := newPlayer(t, stage, schedule, baseline)
	if err := p.prepare(ctx); err != nil {
		t.Fatalf("the agents cannot take calls: %v", err)
	}
	p.play(ctx)
	report := p.report(dir, machine)
	name := fmt.Sprintf("soak-%d", schedule.Seed)
	if baseline != "" {
		name += "-" + string(baseline)
	}
	data, page, err := report.Write(dir, name)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s\n%s\nreport: %s\n        %s", report.Counts(), report.Account, data, page)
	if baseline == "" {
		path, err := report.Short().Write(filepath.Join(dir, "short"))
		if err != nil {
			t.Error(err)
		}
		t.Logf("its short form, for docs/figures/soak: %s", path)
	}
	t.Logf("its line of the table in docs/soak.md:\n%s", report.Toll().Line(baseline))
	if missing := report.Missing(); len(missing) > 0 {
		t.Logf("did not come: %q", missing)
	}
	for _, failure := range report.Failures {
		t.Error(failure)
	}
	if report.Replay != "" {
		t.Errorf("to play again what led to it: make soak REPLAY=%s", report.Replay)
	}
}

// theSchedule draws what the flags ask for, or reads it.
func theSchedule(baseline Baseline) (Schedule, error) {
	if *replay == "" {
		return Draw(Options{Seed: *seed, Duration: *duration, Rate: *rate, Pace: *pace, Nodes: *nodes, NoFaults: !*faults || baseline != ""})
	}
	s, err := Read(*replay)
	if baseline != "" {
		s.Faults = nil
	}
	return s, err
}

// report accounts for the run. A replay is written if a call was dropped.
func (p *player) report(dir string, machine Machine) Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.schedule
	r := Report{
		Began: p.zero.UTC().Truncate(time.Second), Baseline: p.baseline, Seed: s.Seed, Rate: s.Rate, Pace: s.Pace, Nodes: s.Nodes, From: s.From, Duration: s.Duration, Lasted: p.lasted,
		Machine: machine,
		Steps:   p.steps, Pods: p.pods, Usage: p.usage, Calls: p.calls,
	}
	if version, err := p.stage.Client.Discovery().ServerVersion(); err == nil {
		r.Machine.Kubernetes = version.GitVersion
	}
	r.Account, r.Slopes = Sum(p.calls, p.drains, p.steps), Slopes(p.usage)
	r.Failures = p.failures
	if p.baseline == "" { // of the others it is the result
		r.Failures = append(r.Account.Judge(), p.failures...)
		if *tail > 0 {
			r.Failures = append(r.Failures, r.Account.JudgeTails(Offset(*tail))...)
		}
	}
	if p.dropped == nil {
		return r
	}
	path := filepath.Join(dir, fmt.Sprintf("replay-%d.json", s.Seed))
	if err := errors.Join(os.MkdirAll(dir, 0o755), s.Replay(p.dropped.Ended).Write(path)); err != nil {
		r.Failures = append(r.Failures, err.Error())
		return r
	}
	r.Replay = path
	return r
}

// leaks looks for what is not for everybody in what callguard said meanwhile.
func (p *player) leaks(ctx context.Context) error {
	found, read, err := p.stage.Leaks(ctx)
	if err == nil && (len(found) > 0 || read == 0) {
		err = fmt.Errorf("of %d texts that callguard said, these tell what is not for everybody:\n%s", read, strings.Join(found, "\n"))
	}
	return err
}
