// SPDX-License-Identifier: Apache-2.0

// Package lengths learns how long calls last, and foretells when calls under way are over.
//
// It does no I/O and reads no clock: who sees calls begin and end tells it their ages. It
// knows neither pods nor rooms, and decides nothing: a foretold time is shown to people,
// and nobody is let go by it.
package lengths

import (
	"math"
	"sync"
	"time"
)

const (
	// Enough is how many calls must have ended before a time is foretold.
	Enough = 20

	// Ages are kept in steps, four to a doubling, from a second to three days.
	perDoubling = 4
	steps       = 18*perDoubling + 1

	// mostEnded is how many ended calls are kept at most. Past it all counts are halved,
	// so that a table follows a workload whose calls change.
	mostEnded = 20_000

	// Each step has a trace of a call of a kind of which as many end in it as do in the step
	// before, for calls that had all ended by some age do not last much longer; but the
	// further from any call that was seen, the more it is a kind of which each second one
	// lasts half as long again. Where no call was ever seen it alone counts: a call that is
	// older than all before it is not taken for about to end, nor for one without an end.
	prior    = 0.02
	goesOver = 0.25 // the share of calls of the latter kind that end in a step
	carry    = 0.7  // how much of the difference goes on to the next step
)

// Table is what was seen of the calls of a workload: for each step of age how many calls
// lived in it, and how many of them ended there. A call that is still on counts for as much
// of a step as it has lived, and one whose beginning nobody saw from the age on at which it
// was seen first: so long calls count as much as short ones, however short the time is that
// was looked at. The zero Table is empty. It is safe for concurrent use.
type Table struct {
	mu    sync.Mutex
	ended float64
	ends  [steps]float64
	lived [steps]float64
}

// step is the step of an age.
func step(age time.Duration) int {
	s := age.Seconds()
	if s < 1 {
		return 0
	}
	return min(1+int(perDoubling*math.Log2(s)), steps-1)
}

// begins is the age, in seconds, at which a step begins.
func begins(step int) float64 {
	if step == 0 {
		return 0
	}
	return math.Exp2(float64(step-1) / perDoubling)
}

// Add enters that a call was seen from one age to another, and whether it was over then.
func (t *Table) Add(from, to time.Duration, over bool) {
	from = max(0, from)
	to = max(from, to)
	t.mu.Lock()
	defer t.mu.Unlock()
	last := step(to)
	for i := step(from); i <= last; i++ {
		until := 1.0
		if i == last && !over { // one that ended would have lived in the rest of the step
			until = within(i, to)
		}
		t.lived[i] += until - within(i, from)
	}
	if !over {
		return
	}
	t.ends[last]++
	if t.ended++; t.ended < mostEnded {
		return
	}
	t.ended /= 2
	for i := range t.ends {
		t.ends[i] /= 2
		t.lived[i] /= 2
	}
}

// within is how much of a step is over at an age, from 0 to 1.
func within(step int, age time.Duration) float64 {
	return min(1, max(0, (age.Seconds()-begins(step))/(begins(step+1)-begins(step))))
}

// Curve is how calls end, as a table has it at a time.
type Curve struct {
	ended int
	ends  [steps]float64 // the share of calls that reach a step and end in it
	left  [steps]float64 // the share of calls that reach a step, as a logarithm
}

// Curve returns what the table has now.
func (t *Table) Curve() *Curve {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Curve{ended: int(t.ended)}
	like := goesOver
	for i := range steps {
		// A call seen first in the step in which it ended lived less than a step.
		c.ends[i] = (min(t.ends[i], t.lived[i]) + prior*like) / (t.lived[i] + prior)
		like = max(goesOver, goesOver+carry*(c.ends[i]-goesOver))
		if i > 0 {
			c.left[i] = c.left[i-1] + math.Log1p(-c.ends[i-1])
		}
	}
	return c
}

// Ended returns how many ended calls it is made of.
func (c *Curve) Ended() int { return c.ended }

// reach is the share of calls that reach an age, as a logarithm. In a step they end evenly.
func (c *Curve) reach(age time.Duration) float64 {
	i := step(age)
	if i < steps-1 {
		return c.left[i] + math.Log1p(-c.ends[i]*within(i, age))
	}
	return c.left[i] + math.Log1p(-goesOver)*perDoubling*math.Log2(age.Seconds()/begins(i))
}

// Call is a call under way: how old it is at least, and how calls like it end.
type Call struct {
	Age  time.Duration
	Like *Curve
}

// horizon is the longest that is foretold.
const horizon = 1000 * time.Hour

// Over returns after how long all of these calls are over with the chance given, between 0
// and 1: the median for 0.5. Calls end independently of one another. It is never less than
// for any one of the calls, nor than for fewer of them, and 0 for none.
func Over(calls []Call, chance float64) time.Duration {
	if len(calls) == 0 {
		return 0
	}
	now := make([]float64, len(calls))
	for i, c := range calls {
		now[i] = c.Like.reach(c.Age)
	}
	want := math.Log(chance)
	reached := func(after time.Duration) bool {
		sum := 0.0
		for i, c := range calls {
			sum += math.Log1p(-math.Exp(c.Like.reach(c.Age+after) - now[i]))
			if sum < want {
				return false
			}
		}
		return true
	}
	short, long := time.Duration(0), time.Second
	for ; !reached(long); long *= 2 {
		if long > horizon {
			return horizon
		}
		short = long
	}
	for long-short > time.Second/2 && long-short > long/1000 {
		if middle := (short + long) / 2; reached(middle) {
			long = middle
		} else {
			short = middle
		}
	}
	return long.Round(time.Second)
}
