// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Baseline is what people do without callguard, played through the same schedule.
type Baseline string

// The baselines. In each, agents take no new call on SIGTERM, and finish the present ones within their grace period.
const (
	// Article is a PodDisruptionBudget with minAvailable 1, and Kubernetes' own grace of 30 s.
	Article Baseline = "article"
	// Grace600 is the grace of LiveKit's sample manifest.
	Grace600 Baseline = "grace600"
	// GraceHour is a grace of an hour, which is drain_timeout of LiveKit Agents for Python, too.
	GraceHour Baseline = "grace-drain-timeout"
	// NoneUnavailable is a PodDisruptionBudget with maxUnavailable 0.
	NoneUnavailable Baseline = "maxUnavailable0"
	// AgonesLike has a pod for each call. While it has its call, a pod does not belong to its ReplicaSet and is not evicted; it
	// goes when the call is over.
	AgonesLike Baseline = "agones-like"
)

// Baselines lists them.
func Baselines() []Baseline {
	return []Baseline{Article, Grace600, GraceHour, NoneUnavailable, AgonesLike}
}

// ParseBaseline reads the name of a baseline. An empty one is none.
func ParseBaseline(name string) (Baseline, error) {
	if name != "" && !slices.Contains(Baselines(), Baseline(name)) {
		return "", fmt.Errorf("there is no baseline %q; use one of %q, or none for callguard", name, Baselines())
	}
	return Baseline(name), nil
}

// standsFor is the real time that a run represents: its longest calls last as long as the run.
const standsFor = time.Hour

// Grace is the termination grace of a baseline's pods in a run, in whole seconds: shortened in the same proportion as the run.
func (b Baseline) Grace(run time.Duration) time.Duration {
	life := 30 * time.Second
	switch b {
	case Grace600:
		life = 600 * time.Second
	case GraceHour:
		life = time.Hour
	case Article, NoneUnavailable, AgonesLike:
	}
	scaled := time.Duration(float64(life) * run.Seconds() / standsFor.Seconds())
	return max(time.Second, scaled.Round(time.Second))
}

// Toll is the cost of a run for callers and the cluster's owner: a line of the table in docs/soak.md.
type Toll struct {
	// Lost is how many calls ended under their callers, Unanswered how many callers gave up.
	Calls, Lost, Unanswered int
	// Nodes is for how long nodes held pods of agents, and Pods for how long there were such pods, within the schedule.
	Nodes, Pods Offset
	// Drains is how many drains there were, and Undone how many of them did not end. Those that ended took Half and Longest.
	Drains, Undone int
	Half, Longest  Offset
}

// Toll sums up a report.
func (r Report) Toll() Toll {
	t := Toll{Calls: r.Account.Calls, Lost: r.Account.Outcomes[Dropped], Unanswered: r.Account.Outcomes[Unanswered], Drains: len(r.Account.Tails)}
	var took []Offset
	for _, d := range r.Account.Tails {
		if d.Done {
			took = append(took, d.Ended-d.Began)
		} else {
			t.Undone++
		}
	}
	spread := spreadOf(took)
	t.Half, t.Longest = spread.Median, spread.Most
	counts := slices.SortedFunc(slices.Values(r.Pods), func(a, b PodCount) int { return cmp.Compare(a.At, b.At) })
	for i, c := range counts {
		until := r.Duration
		if i+1 < len(counts) {
			until = min(until, counts[i+1].At)
		}
		if c.At < until {
			t.Nodes += Offset(c.Nodes) * (until - c.At)
			t.Pods += Offset(c.all()) * (until - c.At)
		}
	}
	return t
}

// Line is the toll as a line of a table.
func (t Toll) Line(of Baseline) string {
	drains := fmt.Sprintf("%d of %d", t.Drains-t.Undone, t.Drains)
	if t.Drains > t.Undone {
		drains += fmt.Sprintf(", in %s (half), %s (all)", short(t.Half), short(t.Longest))
	}
	return "| " + strings.Join([]string{
		cmp.Or(string(of), "callguard"), fmt.Sprint(t.Calls), fmt.Sprint(t.Lost), fmt.Sprint(t.Unanswered),
		fmt.Sprintf("%.0f", t.Nodes.Seconds()), fmt.Sprintf("%.0f", t.Pods.Seconds()), drains,
	}, " | ") + " |"
}
