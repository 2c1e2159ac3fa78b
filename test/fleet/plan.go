// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	planTick      = 100 * time.Millisecond
	planRetry     = time.Second
	planDialers   = 8
	planMostCalls = 500
)

// Plan is a load over time: either Steps or Rate.
type Plan struct {
	// Rooms is the prefix of the rooms' names, "call" when empty. Names do not repeat within one Callers.
	Rooms string
	// Steps set how many calls should be up. They start from none; calls left by the last step are hung up at the
	// end.
	Steps []Step
	// Rate is how many calls arrive each second, for For; each lasts Length.
	Rate        float64
	For, Length time.Duration
	// MostCalls limits the calls that are up at once, 500 if 0.
	MostCalls int
	Dial      DialOptions
}

// Step changes the number of calls evenly over a time. The same number again keeps it.
type Step struct {
	Calls int
	Over  time.Duration
}

// validate reports every mistake of a plan.
func (p Plan) validate() error {
	var errs []error
	if (len(p.Steps) > 0) == (p.Rate > 0) {
		errs = append(errs, errors.New("a plan has either Steps or a Rate; set one of them"))
	}
	if p.Rate > 0 && (p.For <= 0 || p.Length <= 0) {
		errs = append(errs, errors.New("a plan with a Rate needs For and Length; set both above zero"))
	}
	for i, s := range p.Steps {
		if s.Calls < 0 || s.Over < 0 {
			errs = append(errs, fmt.Errorf("step %d of the plan is negative; use zero or more", i))
		}
	}
	return errors.Join(errs...)
}

// wanted returns how many calls should be up after a time, and whether the steps are over.
func wanted(steps []Step, after time.Duration) (calls int, over bool) {
	from := 0
	for _, s := range steps {
		if after < s.Over {
			return from + int(float64(s.Calls-from)*float64(after)/float64(s.Over)), false
		}
		after -= s.Over
		from = s.Calls
	}
	return from, true
}

// Play dials and hangs up according to the plan, and returns when its last call is over. With steps, calls that
// are dropped or not answered are replaced; they are in the Report and cause no error. Ending ctx hangs up all
// calls.
func (cs *Callers) Play(ctx context.Context, plan Plan) error {
	if err := plan.validate(); err != nil {
		return err
	}
	if plan.Rooms == "" {
		plan.Rooms = "call"
	}
	if plan.MostCalls == 0 {
		plan.MostCalls = planMostCalls
	}
	p := &player{callers: cs, plan: plan, slots: make(chan struct{}, planDialers)}
	defer p.work.Wait()
	tick := time.NewTicker(planTick)
	defer tick.Stop()
	start := time.Now()
	for {
		if p.turn(ctx, time.Since(start)) {
			p.work.Wait()
			hangUpAll(p.take(0))
			return nil
		}
		select {
		case <-ctx.Done():
			p.work.Wait()
			hangUpAll(p.take(0))
			return fmt.Errorf("the load plan was interrupted: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// player plays one plan.
type player struct {
	callers *Callers
	plan    Plan
	slots   chan struct{}
	work    sync.WaitGroup

	arrived int

	mu      sync.Mutex
	pending int
	up      []*Call // oldest first
}

// turn makes the calls match the plan, and reports whether the plan is over.
func (p *player) turn(ctx context.Context, after time.Duration) (over bool) {
	if p.plan.Rate > 0 {
		return p.arrive(ctx, after)
	}
	want, over := wanted(p.plan.Steps, after)
	if over {
		return true
	}
	want = min(want, p.plan.MostCalls)
	surplus := p.take(want)
	if len(surplus) > 0 {
		p.work.Go(func() { hangUpAll(surplus) })
	}
	p.mu.Lock()
	missing := want - len(p.up) - p.pending
	p.mu.Unlock()
	for range missing {
		p.dial(ctx, func(c *Call) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.up = append(p.up, c)
		})
	}
	return false
}

// arrive dials the calls that are due. Arrivals beyond the limit are turned away.
func (p *player) arrive(ctx context.Context, after time.Duration) (over bool) {
	due := int(min(after, p.plan.For).Seconds()*p.plan.Rate) + 1
	for ; p.arrived < due; p.arrived++ {
		p.mu.Lock()
		full := p.pending >= p.plan.MostCalls
		p.mu.Unlock()
		if full {
			continue
		}
		p.dial(ctx, func(c *Call) {
			length := time.NewTimer(p.plan.Length)
			defer length.Stop()
			select {
			case <-length.C:
			case <-c.Done():
			case <-ctx.Done():
			}
			c.HangUp()
		})
	}
	return after >= p.plan.For
}

// dial dials one call in the background and passes it to then. It is pending until then returns.
func (p *player) dial(ctx context.Context, then func(*Call)) {
	p.mu.Lock()
	p.pending++
	p.mu.Unlock()
	room := fmt.Sprintf("%s-%d", p.plan.Rooms, p.callers.nextRoom())
	p.work.Go(func() {
		defer func() {
			p.mu.Lock()
			p.pending--
			p.mu.Unlock()
		}()
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		call, err := p.callers.Dial(ctx, room, p.plan.Dial)
		<-p.slots
		if err == nil {
			then(call)
			return
		}
		select { // do not flood a LiveKit that is away
		case <-ctx.Done():
		case <-time.After(planRetry):
		}
	})
}

// take removes the calls that are over, and the oldest ones beyond keep; it returns the latter.
func (p *player) take(keep int) []*Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var live []*Call
	for _, c := range p.up {
		select {
		case <-c.Done():
		default:
			live = append(live, c)
		}
	}
	surplus := max(0, len(live)-keep)
	p.up = live[surplus:]
	return live[:surplus]
}
