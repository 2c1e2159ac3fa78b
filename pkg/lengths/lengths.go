// SPDX-License-Identifier: Apache-2.0

// Package lengths learns how long calls last, and estimates when present calls will have
// ended.
//
// It does no I/O and reads no clock: callers that see calls begin and end pass their ages.
// It knows neither pods nor rooms, and decides nothing: estimates are shown to people, and
// no pod is released because of them.
package lengths

import (
	"math"
	"sync"
	"time"
)

const (
	// Enough is how many calls must have ended before there is an estimate.
	Enough = 20

	// Ages are kept in steps, four to a doubling, from a second to three days.
	perDoubling = 4
	steps       = 18*perDoubling + 1

	// mostEnded is the maximum number of ended calls. Beyond it all counts are halved, so that
	// a table follows a workload whose calls change.
	mostEnded = 20_000

	// Each step also counts a small fraction (prior) of an imagined call. Near calls that were
	// seen, it ends with the same probability as in the step before, because calls that had
	// all ended by some age do not last much longer. The further from them, the more it
	// becomes a kind of call of which half last half as long again. Where no call was ever
	// seen, only the imagined one counts: so a call that is older than all before it is
	// expected neither to end at once nor to last forever.
	prior    = 0.02
	goesOver = 0.25 // the share of calls of that kind that end in a step
	carry    = 0.7  // how much of the difference goes on to the next step
)

// Table has what was seen of the calls of a workload: for each step of age how many calls
// reached it, and how many of them ended in it. A call that is still on counts for the part
// of a step that it has lived, and a call whose beginning was not seen counts from the age
// at which it was first seen. So long calls are not underestimated, even if the time of
// observation is short. The zero Table is empty. It is safe for concurrent use.
type Table struct {
	mu    sync.Mutex
	ended float64
	ends  [steps]float64
	lived [steps]float64
}

// step returns the step of an age.
func step(age time.Duration) int {
	s := age.Seconds()
	if s < 1 {
		return 0
	}
	return min(1+int(perDoubling*math.Log2(s)), steps-1)
}

// begins returns the age, in seconds, at which a step begins.
func begins(step int) float64 {
	if step == 0 {
		return 0
	}
	return math.Exp2(float64(step-1) / perDoubling)
}

// Add records that a call was seen from one age to another, and whether it was over then.
func (t *Table) Add(from, to time.Duration, over bool) {
	from = max(0, from)
	to = max(from, to)
	t.mu.Lock()
	defer t.mu.Unlock()
	last := step(to)
	for i := step(from); i <= last; i++ {
		until := 1.0
		if i == last && !over { // a call that ended counts for the whole step
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

// within returns which part of a step is over at an age, from 0 to 1.
func within(step int, age time.Duration) float64 {
	return min(1, max(0, (age.Seconds()-begins(step))/(begins(step+1)-begins(step))))
}

// Curve is how calls end, according to a table at some time.
type Curve struct {
	ended int
	ends  [steps]float64 // the share of calls that reach a step and end in it
	left  [steps]float64 // the logarithm of the share of calls that reach a step
}

// Curve returns the present state of the table.
func (t *Table) Curve() *Curve {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Curve{ended: int(t.ended)}
	like := goesOver
	for i := range steps {
		// A call that was first seen in the step in which it ended counts for less than a whole
		// step.
		c.ends[i] = (min(t.ends[i], t.lived[i]) + prior*like) / (t.lived[i] + prior)
		like = max(goesOver, goesOver+carry*(c.ends[i]-goesOver))
		if i > 0 {
			c.left[i] = c.left[i-1] + math.Log1p(-c.ends[i-1])
		}
	}
	return c
}

// Ended returns from how many ended calls the curve is made.
func (c *Curve) Ended() int { return c.ended }

// reach returns the logarithm of the share of calls that reach an age. Within a step they
// end evenly.
func (c *Curve) reach(age time.Duration) float64 {
	i := step(age)
	if i < steps-1 {
		return c.left[i] + math.Log1p(-c.ends[i]*within(i, age))
	}
	return c.left[i] + math.Log1p(-goesOver)*perDoubling*math.Log2(age.Seconds()/begins(i))
}

// Call is a present call: its minimum age, and how calls like it end.
type Call struct {
	Age  time.Duration
	Like *Curve
}

// horizon is the longest estimate.
const horizon = 1000 * time.Hour

// Over returns after how long all of these calls are over with the given probability,
// between 0 and 1: the median for 0.5. It assumes that calls end independently. It is never
// less than for fewer of the calls, and 0 without calls.
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
