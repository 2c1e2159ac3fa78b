// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"cmp"
	"slices"
	"time"
)

// LateAfter is how long a caller waits before an answer counts as late.
const LateAfter = Offset(15 * time.Second)

// slack is how much sooner than planned a call may end and still count as completed: the caller's clock is read before and
// after it hangs up.
const slack = Offset(500 * time.Millisecond)

// Outcome is the result of a call for its caller.
type Outcome string

// The outcomes of calls.
const (
	// Completed: the caller talked for as long as planned, and hung up.
	Completed Outcome = "completed"
	// EndedByCaller: the caller hung up sooner, because the run was over.
	EndedByCaller Outcome = "ended by the caller"
	// Dropped: the call ended under its caller.
	Dropped Outcome = "dropped"
	// LostWithAgent: it ended under its caller because the schedule killed its agent, which no add-on survives.
	LostWithAgent Outcome = "lost with its agent"
	// LostWithNode: the schedule cut the power of its node, which no add-on survives either.
	LostWithNode Outcome = "lost with its node"
	// LostWithoutGuard: the schedule had opted its workload out, which gives its calls up.
	LostWithoutGuard Outcome = "lost while its workload was opted out"
	// Unanswered: no agent came.
	Unanswered Outcome = "unanswered"
)

// Outcomes lists them, as a report does.
func Outcomes() []Outcome {
	return []Outcome{Completed, EndedByCaller, Dropped, LostWithAgent, LostWithNode, LostWithoutGuard, Unanswered}
}

// CallRecord is what happened to one call, from its caller's side.
type CallRecord struct {
	// N is its number in the schedule.
	N        int    `json:"n"`
	Workload string `json:"workload"`
	// Pod and Node had the call, if anybody.
	Pod    string `json:"pod,omitempty"`
	Node   string `json:"node,omitempty"`
	Began  Offset `json:"began"`
	Ended  Offset `json:"ended"`
	Length Offset `json:"length"` // as planned
	// Answer is how long the caller waited for an agent. It means nothing where Answered is false.
	Answered bool   `json:"answered"`
	Answer   Offset `json:"answer,omitempty"`
	// Cause is why the call ended under its caller; empty if it did not. Detail has more, also for an unanswered call.
	Cause  string `json:"cause,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Stopped says that the run was over before anybody answered.
	Stopped bool `json:"stopped,omitempty"`
	// Lost is what the schedule itself made of the call, if it did: see Deed.
	Lost Outcome `json:"lost,omitempty"`
	// Able says that, when the caller came and for a while after, an agent was there that could have answered.
	Able bool `json:"able,omitempty"`
}

// Outcome is how the call was for its caller.
func (c CallRecord) Outcome() Outcome {
	switch {
	case !c.Answered && c.Stopped:
		return EndedByCaller
	case !c.Answered:
		return Unanswered
	case c.Cause != "" && c.Lost != "":
		return c.Lost
	case c.Cause != "":
		return Dropped
	case c.Ended-c.Began-c.Answer+slack < c.Length:
		return EndedByCaller
	default:
		return Completed
	}
}

// Late reports whether the caller waited long for an answer.
func (c CallRecord) Late() bool { return c.Answered && c.Answer > LateAfter }

// DrainRecord is the drain of one node.
type DrainRecord struct {
	Node  string `json:"node"`
	Began Offset `json:"began"`
	Ended Offset `json:"ended"`
	// Done means that it ended well. Otherwise it went on until Ended; Cut means that the run ended then.
	Done bool `json:"done"`
	Cut  bool `json:"cut,omitempty"`
	// Tries is how often kubectl was started: it gives up where kube-apiserver does not answer.
	Tries int `json:"tries"`
}

// Tail is a drain beside the calls on its node.
type Tail struct {
	DrainRecord

	// Calls is how many were in progress on the node while it was drained, and LastCall when the last of them ended; the
	// drain's own beginning if there was none.
	Calls    int    `json:"calls"`
	LastCall Offset `json:"lastCall"`
	// Tail is how much longer the drain was than its longest call.
	Tail Offset `json:"tail"`
	// Fault says that a fault was under way in its tail, such as a guard that was dead.
	Fault bool `json:"fault,omitempty"`
}

// Spread is the distribution of lengths of time.
type Spread struct {
	Count  int    `json:"count"`
	Median Offset `json:"median"`
	P90    Offset `json:"p90"`
	P99    Offset `json:"p99"`
	Most   Offset `json:"most"`
}

// Account summarizes all calls and drains.
type Account struct {
	Calls    int             `json:"calls"`
	Outcomes map[Outcome]int `json:"outcomes"`
	Late     int             `json:"late"`
	// Answerable is how many of the unanswered an agent could have answered.
	Answerable int `json:"answerable"`
	// Most is how many calls there were at once.
	Most int `json:"most"`
	// Wrong lists the calls that were dropped or not answered, or were lost with their agents.
	Wrong  []CallRecord `json:"wrong"`
	Answer Spread       `json:"answer"`
	Tails  []Tail       `json:"tails"`
	// Tail is of all drains that ended, Undisturbed of those without a fault in their tail.
	Tail        Spread `json:"tail"`
	Undisturbed Spread `json:"undisturbed"`
	// Undone is how many drains did not end, although there was time.
	Undone int `json:"undone"`
}

// Sum accounts for calls, and for drains among the steps that were done.
func Sum(calls []CallRecord, drains []DrainRecord, steps []StepRecord) Account {
	a := Account{Calls: len(calls), Outcomes: map[Outcome]int{}, Most: mostAtOnce(calls)}
	for _, o := range Outcomes() {
		a.Outcomes[o] = 0
	}
	var answers, tails, undisturbed []Offset
	for _, c := range calls {
		outcome := c.Outcome()
		a.Outcomes[outcome]++
		if c.Answered {
			answers = append(answers, c.Answer)
		}
		if c.Late() {
			a.Late++
		}
		switch outcome {
		case Unanswered:
			if c.Able {
				a.Answerable++
			}
			a.Wrong = append(a.Wrong, c)
		case Dropped, LostWithAgent, LostWithNode, LostWithoutGuard:
			a.Wrong = append(a.Wrong, c)
		case Completed, EndedByCaller:
		}
	}
	for _, d := range drains {
		tail := tailOf(d, calls, steps)
		a.Tails = append(a.Tails, tail)
		switch {
		case d.Done:
			tails = append(tails, tail.Tail)
			if !tail.Fault {
				undisturbed = append(undisturbed, tail.Tail)
			}
		case !d.Cut:
			a.Undone++
		}
	}
	slices.SortStableFunc(a.Wrong, func(x, y CallRecord) int { return cmp.Compare(x.Ended, y.Ended) })
	slices.SortStableFunc(a.Tails, func(x, y Tail) int { return cmp.Compare(x.Began, y.Began) })
	a.Answer, a.Tail, a.Undisturbed = spreadOf(answers), spreadOf(tails), spreadOf(undisturbed)
	return a
}

// tailOf finds the calls that kept a drain, and whether a fault came after them.
func tailOf(d DrainRecord, calls []CallRecord, steps []StepRecord) Tail {
	t := Tail{DrainRecord: d, LastCall: d.Began}
	for _, c := range calls {
		if c.Node == d.Node && c.Began < d.Ended && c.Ended > d.Began {
			t.Calls++
			t.LastCall = max(t.LastCall, c.Ended)
		}
	}
	t.Tail = max(0, d.Ended-t.LastCall)
	t.Fault = slices.ContainsFunc(steps, func(s StepRecord) bool {
		return s.Fault() && !s.Passed && s.At < d.Ended && s.Ended > t.LastCall
	})
	return t
}

// mostAtOnce is how many calls were under way at once, at most.
func mostAtOnce(calls []CallRecord) int {
	type change struct {
		at Offset
		by int
	}
	var changes []change
	for _, c := range calls {
		changes = append(changes, change{c.Began, 1}, change{c.Ended, -1})
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.by, b.by)) })
	up, most := 0, 0
	for _, c := range changes {
		up += c.by
		most = max(most, up)
	}
	return most
}

// spreadOf gives, for each hundredth, the smallest length that so many of a hundred are not above.
func spreadOf(all []Offset) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(all))
	at := func(hundredths int) Offset { return sorted[max(0, (len(sorted)*hundredths+99)/100-1)] }
	return Spread{Count: len(sorted), Median: at(50), P90: at(90), P99: at(99), Most: sorted[len(sorted)-1]}
}
