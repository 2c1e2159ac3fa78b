// SPDX-License-Identifier: Apache-2.0

package lengths

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// seconds converts seconds to a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// mixed returns a length as in a workload with short, medium and long calls.
func mixed(r *rand.Rand) time.Duration {
	between := func(a, b float64) time.Duration { return seconds(a + (b-a)*r.Float64()) }
	switch n := r.Float64(); {
	case n < 0.6:
		return between(60, 240)
	case n < 0.9:
		return between(300, 900)
	default:
		return between(1200, 2400)
	}
}

// spoken is a call of a simulation.
type spoken struct{ began, ends time.Duration }

// TestMedianFromHalfway drains 200 calls of known, mixed lengths, many times. In the second half
// the estimated median is right to a quarter of the drain's length.
func TestMedianFromHalfway(t *testing.T) {
	type scene struct {
		reason  string
		history time.Duration // watched before the drain
	}
	for name, tc := range map[string]scene{
		"KnownWell":   {reason: "A workload that was watched for hours.", history: 6 * time.Hour},
		"JustStarted": {reason: "Whoever has watched for a while counts the long calls that are still on.", history: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			worst := 0.0
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 1))
				worst = max(worst, drained(t, r, tc.history))
			}
			t.Logf("%s the worst estimate of 20 drains was off by %.0f %%", tc.reason, 100*worst)
			if worst > 0.25 {
				t.Errorf("%s an estimate is off by %.0f %%", tc.reason, 100*worst)
			}
		})
	}
}

// drained simulates a drain, and returns the error of the worst estimate in its second half.
func drained(t *testing.T, r *rand.Rand, history time.Duration) (worst float64) {
	t.Helper()
	const calls = 200
	table := &Table{}
	var open []spoken
	at := -history - time.Hour // nothing is observed in the first hour
	watched := -history
	for at < 0 {
		at += seconds(r.ExpFloat64() * 435 / calls) // 435 s is the mean length
		c := spoken{began: at, ends: 0}
		c.ends = at + mixed(r)
		switch {
		case c.ends > 0 && at < 0:
			open = append(open, c)
			table.Add(max(0, watched-at), -at, false)
		case c.ends > watched && at < 0:
			table.Add(max(0, watched-at), c.ends-at, true)
		}
	}
	took := slices.MaxFunc(open, func(a, b spoken) int { return int(a.ends - b.ends) }).ends
	return emptied(table, open, took/40)
}

// emptied lets calls end, and returns the error of the worst estimate in the second half,
// relative to the drain's length.
func emptied(table *Table, open []spoken, every time.Duration) (worst float64) {
	took := slices.MaxFunc(open, func(a, b spoken) int { return int(a.ends - b.ends) }).ends
	told := time.Duration(0)
	for now := took / 2; now < took; now += every {
		var left []Call
		for _, c := range open {
			switch {
			case c.ends > now:
				table.Add(told-c.began, now-c.began, false)
			case c.ends > told:
				table.Add(told-c.began, c.ends-c.began, true)
			}
		}
		told = now
		curve := table.Curve()
		for _, c := range open {
			if c.ends > now {
				left = append(left, Call{now - c.began, curve})
			}
		}
		foretold := now + Over(left, 0.5)
		worst = max(worst, (foretold-took).Abs().Seconds()/took.Seconds())
	}
	return worst
}

// TestMedianSoonAfterStart drains 200 calls of up to 110 s when lengths have been learnt for
// only 150 s: few of the longest have ended by then, and the last ones may be longer than all
// before.
func TestMedianSoonAfterStart(t *testing.T) {
	between := func(r *rand.Rand, a, b float64) time.Duration { return seconds(a + (b-a)*r.Float64()) }
	length := func(r *rand.Rand) time.Duration {
		switch n := r.Float64(); {
		case n < 0.5:
			return between(r, 12, 30)
		case n < 0.8:
			return between(r, 30, 60)
		default:
			return between(r, 70, 110)
		}
	}
	worst := 0.0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		table := &Table{}
		var open []spoken
		for i := range 200 { // callers who call again; 80 at first, all in the last minute
			at := seconds(-150 + 30*float64(i)/80)
			if i >= 80 {
				at = seconds(-60 + 58*float64(i-80)/120)
			}
			for {
				over := at + length(r)
				if over > 0 {
					open = append(open, spoken{began: at, ends: over})
					table.Add(0, -at, false)
					break
				}
				table.Add(0, over-at, true)
				at = min(0, over+time.Second/2)
			}
		}
		worst = max(worst, emptied(table, open, 5*time.Second))
	}
	t.Logf("the worst estimate of 40 drains was off by %.0f %%", 100*worst)
	if worst > 0.25 {
		t.Errorf("an estimate is off by %.0f %%", 100*worst)
	}
}

// learnt returns the curve of completely observed calls of these lengths.
func learnt(lengths ...time.Duration) *Curve {
	table := &Table{}
	for _, l := range lengths {
		table.Add(0, l, true)
	}
	return table.Curve()
}

// repeated repeats a length n times.
func repeated(n int, l time.Duration) []time.Duration { return slices.Repeat([]time.Duration{l}, n) }

func TestOver(t *testing.T) {
	tenMinutes := learnt(repeated(100, 10*time.Minute)...)
	longAndShort := learnt(append(repeated(80, time.Minute), repeated(20, time.Hour)...)...)
	for name, tc := range map[string]struct {
		reason   string
		calls    []Call
		chance   float64
		from, to time.Duration
	}{
		"None":        {reason: "Where no call is, nothing is to be waited for.", chance: 0.5},
		"JustBegun":   {reason: "It lasts as calls do.", calls: []Call{{0, tenMinutes}}, chance: 0.5, from: 9 * time.Minute, to: 11 * time.Minute},
		"Halfway":     {reason: "The time it has already lasted is over.", calls: []Call{{5 * time.Minute, tenMinutes}}, chance: 0.5, from: 4 * time.Minute, to: 6 * time.Minute},
		"OutlivedAll": {reason: "A call longer than all before it is not about to end; that it lasts half as long again is as good a guess as any.", calls: []Call{{time.Hour, tenMinutes}}, chance: 0.5, from: 25 * time.Minute, to: 35 * time.Minute},
		"LongOnesAreLeft": {reason: "Whoever is past the short calls is a long one.", calls: []Call{{2 * time.Minute, longAndShort}}, chance: 0.5,
			from: 50 * time.Minute, to: 75 * time.Minute},
		"Probably": {reason: "Of calls that have just begun four of five are short.", calls: []Call{{0, longAndShort}}, chance: 0.5, to: 90 * time.Second},
		"NearlySurely": {reason: "Nine of ten times is another question.", calls: []Call{{0, longAndShort}}, chance: 0.9,
			from: 50 * time.Minute, to: 75 * time.Minute},
		"Many": {reason: "Of many calls one is long.", calls: slices.Repeat([]Call{{0, longAndShort}}, 20), chance: 0.5,
			from: 50 * time.Minute, to: 75 * time.Minute},
		"Unlearnt": {reason: "Without any ended call it is a guess, and never no time.", calls: []Call{{10 * time.Minute, learnt()}}, chance: 0.5, from: 4 * time.Minute, to: 6 * time.Minute},
		"Days":     {reason: "Beyond the last step it continues.", calls: []Call{{200 * time.Hour, tenMinutes}}, chance: 0.5, from: 80 * time.Hour, to: 120 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Over(tc.calls, tc.chance); got < tc.from || got > tc.to {
				t.Errorf("%s estimated %s; want %s to %s", tc.reason, got, tc.from, tc.to)
			}
		})
	}
}

// TestNeverLessThanTheLongest: all calls together are never estimated to end before a single one
// of them, a higher confidence is never earlier, and no call ends at once.
func TestNeverLessThanTheLongest(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		table := &Table{}
		for range r.IntN(300) {
			from := time.Duration(r.Int64N(int64(time.Hour)))
			table.Add(from, from+mixed(r), r.IntN(3) > 0)
		}
		curve := table.Curve()
		var calls []Call
		var longest time.Duration
		for range 1 + r.IntN(30) {
			one := Call{time.Duration(r.Int64N(int64(2 * time.Hour))), curve}
			calls = append(calls, one)
			alone := Over([]Call{one}, 0.5)
			if longest = max(longest, alone); alone <= 0 {
				t.Fatalf("seed %d: a call of %s is estimated to end at once", seed, one.Age)
			}
		}
		slack := longest/500 + time.Second // it is computed to a thousandth
		if all, surer := Over(calls, 0.5), Over(calls, 0.9); all < longest-slack || surer < all-slack {
			t.Errorf("seed %d: all are over after %s, nine of ten times after %s, the longest alone after %s", seed, all, surer, longest)
		}
	}
}

// TestShortWatch: ten minutes of watching calls of an hour, of which only the oldest have ended,
// do not make them look like calls of ten minutes.
func TestShortWatch(t *testing.T) {
	table := &Table{}
	for i := range 120 { // one began every half minute
		age := time.Duration(i) * 30 * time.Second
		table.Add(age, min(age+10*time.Minute, time.Hour), age+10*time.Minute >= time.Hour)
	}
	if curve := table.Curve(); curve.Ended() < Enough-1 {
		t.Fatalf("%d calls have ended", curve.Ended())
	} else if got := Over([]Call{{0, curve}}, 0.5); got < 50*time.Minute || got > 70*time.Minute {
		t.Errorf("a new call is estimated to end after %s; calls last an hour", got)
	}
}

// TestFollowsChange: when calls become longer, estimates do, too, and the counts stay bounded.
func TestFollowsChange(t *testing.T) {
	table := &Table{}
	for range 3 * mostEnded {
		table.Add(0, time.Minute, true)
	}
	for range 2 * mostEnded {
		table.Add(0, time.Hour, true)
	}
	curve := table.Curve()
	if got := Over([]Call{{0, curve}}, 0.5); got < 50*time.Minute {
		t.Errorf("after as many calls of an hour the median is %s", got)
	}
	if curve.Ended() > mostEnded {
		t.Errorf("%d ended calls are kept", curve.Ended())
	}
}
