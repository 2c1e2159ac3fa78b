// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// TestStory follows one of four pods from the cordon of its node until its release, and
// then other possible courses. The last column is what an operator reads.
func TestStory(t *testing.T) {
	cordon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return cordon.Add(time.Duration(seconds) * time.Second) }
	drained := at(10)
	serving := func() verdict.Facts {
		return verdict.Facts{
			Now:      at(0),
			Pod:      verdict.Pod{State: call.Serving, Running: true, Ready: true},
			Workload: verdict.Workload{Desired: 4, MinAvailable: 4, Surge: 1, Able: 3},
			Limits:   verdict.Limits{Settle: 20 * time.Second, LostQuiet: time.Minute, ReplacementWait: 20 * time.Minute},
		}
	}
	wanted := func(intent call.Intent) verdict.Facts {
		f := serving()
		f.Intent, f.Since, f.Standing = call.Mark{Intent: intent, At: cordon}, cordon, cordon
		if intent == call.LostNode {
			f.LostSince = cordon
		}
		return f
	}
	aside := func(able int) verdict.Facts {
		f := wanted(call.NodeDrain)
		f.Pod.State, f.Workload.Able = call.Aside, able
		return f
	}
	draining := func(intent call.Intent, seconds int, readings ...call.Reading) verdict.Facts {
		f := wanted(intent)
		f.Now, f.Pod.State, f.Pod.DrainingSince, f.QuietSince, f.Workload.Able = at(seconds), call.Draining, drained, drained, 4
		for i, r := range readings {
			f.Readings = append(f.Readings, verdict.Reading{Witness: call.DefaultWitnesses()[i], Reading: r, Since: r.At()})
		}
		return f
	}
	with := func(f verdict.Facts, change func(*verdict.Facts)) verdict.Facts {
		change(&f)
		return f
	}
	known := func(n, seconds int) call.Reading { return call.Known(n, at(seconds)) }
	both := func(n, seconds int) (list []verdict.Reading) {
		for _, w := range call.DefaultWitnesses() {
			list = append(list, verdict.Reading{Witness: w, Reading: known(n, seconds), Since: at(seconds)})
		}
		return list
	}
	idle := func(seconds int) []verdict.Reading { return both(0, seconds) }
	busy := func(seconds int) []verdict.Reading { return both(2, seconds) }
	steps := []struct {
		reason  string
		facts   verdict.Facts
		outcome verdict.Outcome
		forced  bool
		says    string // "rule: sentence"
	}{
		{"Before anything happens.", serving(), verdict.Serve, false, "serving: nothing asks the pod to leave"},
		{"Its container restarts, and nobody wants it to go.", with(serving(), func(f *verdict.Facts) { f.Pod.Running = false }), verdict.Serve, false, "serving: nothing asks the pod to leave"},
		{"Its node is cordoned.", wanted(call.NodeDrain), verdict.SetAside, false, "bounds: a replacement comes first"},
		{"Its neighbour was first.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Workload.Coming, f.Workload.Able = 1, 2 }), verdict.Hold, false,
			"bounds: replacement pods are not ready yet"},
		{"But its node has two minutes, and all of its pods have to be replaced.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Workload.Coming, f.Workload.Able, f.Notice = 1, 2, "spot" }), verdict.SetAside, false,
			"bounds: a replacement comes first"},
		{"On such a node a new call would be cut, and another can take it.", with(aside(1), func(f *verdict.Facts) { f.Notice = "spot" }), verdict.Drain, false, "floor: enough other pods can take calls"},
		{"Nobody else can.", with(aside(0), func(f *verdict.Facts) { f.Notice = "spot" }), verdict.Hold, false,
			"floor: too few others of its workload can take calls; it goes on serving until replacements are ready"},
		{"The replacement has not started.", aside(3), verdict.Hold, false,
			"floor: too few others of its workload can take calls; it goes on serving until replacements are ready"},
		{"The replacement is ready.", aside(4), verdict.Drain, false, "floor: enough other pods can take calls"},
		{"Marked just now, and nobody was asked since.", draining(call.NodeDrain, 10, call.Reading{}, call.Reading{}), verdict.Hold, false,
			"unknown: its witness rooms cannot tell whether it holds calls: there is no answer yet"},
		{"A call goes on.", draining(call.NodeDrain, 60, known(1, 59), known(1, 60)), verdict.Hold, false, "calls: it holds calls"},
		{"The agent does not answer meanwhile.", draining(call.NodeDrain, 61, known(1, 60), call.Unknown("no route")), verdict.Hold, false, "calls: it holds calls"},
		{"The call is over, says LiveKit.", draining(call.NodeDrain, 90, known(0, 89), call.Unknown("no route")), verdict.Hold, false,
			"unknown: its witness worker cannot tell whether it holds calls: no route"},
		{"The call is over, say both.", draining(call.NodeDrain, 91, known(0, 90), known(0, 91)), verdict.Release, false, "idle: its calls are over"},

		{"A call slipped in after the mark.", with(draining(call.NodeDrain, 40, known(0, 40), known(0, 40)), func(f *verdict.Facts) { f.QuietSince = at(30) }), verdict.Hold, false,
			"settle: it is idle; waiting in case a call is still being connected"},
		{"It was idle when it was marked.", draining(call.NodeDrain, 30, known(0, 30), known(0, 30)), verdict.Hold, false,
			"settle: it is idle; waiting in case a call is still being connected"},
		{"And no call was on its way.", draining(call.NodeDrain, 31, known(0, 31), known(0, 31)), verdict.Release, false, "idle: its calls are over"},
		{"The gate makes it sure at once.", with(draining(call.NodeDrain, 11, known(0, 11), known(0, 11)), func(f *verdict.Facts) { f.Sealed = true }), verdict.Release, false,
			"idle: its calls are over"},
		{"A pod without witnesses is not known to be idle.", draining(call.NodeDrain, 9999), verdict.Hold, false, "default: no rule releases the pod"},

		{"The team's own deadline.", with(draining(call.NodeDrain, 3600, known(2, 3599), known(2, 3599)), func(f *verdict.Facts) { f.Deadline = call.Deadline{After: time.Hour, Release: true} }),
			verdict.Release, true, "deadline: its own callguard.dev/drain-deadline has passed"},
		{"The administrator's ceiling.", with(draining(call.NodeDrain, 3600, call.Unknown("LiveKit is down"), known(0, 3599)), func(f *verdict.Facts) { f.Limits.MaxHold = time.Hour }),
			verdict.Release, true, "deadline: it was held for as long as --max-hold allows"},
		{"The end of its node, where that is a limit.", with(draining(call.NodeDrain, 3600, known(2, 3599), known(2, 3599)), func(f *verdict.Facts) { f.LetGoBy = at(3600) }),
			verdict.Release, true, "deadline: its node is about to end (--node-termination-limit)"},
		{"A second before.", with(draining(call.NodeDrain, 3599, known(2, 3598), known(2, 3598)), func(f *verdict.Facts) { f.LetGoBy = at(3600) }), verdict.Hold, false, "calls: it holds calls"},
		{"Its calls are over as the ceiling is reached.", with(draining(call.NodeDrain, 3600, known(0, 3599), known(0, 3599)), func(f *verdict.Facts) { f.Limits.MaxHold = time.Hour }),
			verdict.Release, false, "idle: its calls are over"},

		{"Its container has ended.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Pod.Running = false }), verdict.Drain, false, "ended: its agent does not run"},
		{"And it is marked.", with(draining(call.NodeDrain, 11), func(f *verdict.Facts) { f.Pod.Running = false }), verdict.Release, false, "ended: its agent does not run"},

		{"A scale-down chose it.", with(wanted(call.ScaleDown), func(f *verdict.Facts) { f.Chosen = "it is idle" }), verdict.SetAside, false, "bounds: it is idle"},
		{"A StatefulSet's pod drains where it is.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Pod.InPlace = "no replacement" }), verdict.Drain, false,
			"floor: enough other pods can take calls"},
		{"But one at a time.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Pod.InPlace, f.Workload.Able = "no replacement", 2 }), verdict.Hold, false,
			"floor: too few others of its workload can take calls, and it cannot be replaced first: no replacement"},
		{"The new revision has a wrong key: it is ready, and can take no call.", with(aside(0), func(f *verdict.Facts) {
			f.Intent.Intent = call.Rollout
			f.Workload.Unable = verdict.Unable{Pod: "voice/web-b", Secret: "voice/livekit", Why: call.Refused}
		}), verdict.Hold, false,
			"floor: too few others of its workload can take calls: LiveKit refuses the key of Secret voice/livekit (pod voice/web-b); it goes on serving until replacements are ready"},
		{"Its neighbour's replacement is there, and no worker comes to its gate.", with(wanted(call.NodeDrain), func(f *verdict.Facts) {
			f.Workload.Coming, f.Workload.Able = 1, 2
			f.Workload.Unable = verdict.Unable{Pod: "voice/web-b", Why: call.NoWorker}
		}), verdict.Hold, false,
			"bounds: replacements of its workload cannot take calls: no worker has ever connected to call-gate of pod voice/web-b; check its LIVEKIT_URL and proxy settings"},
		{"No pod of the workload has ever been able to take a call: a drain does not wait for that.", with(aside(0), func(f *verdict.Facts) {
			f.Pod.Unable = verdict.Unable{Pod: "voice/web-a", Why: call.Refused}
		}), verdict.Drain, false, "floor: it can take no call itself: LiveKit refuses the key of pod voice/web-a"},
		{"Nor does its step aside.", with(wanted(call.NodeDrain), func(f *verdict.Facts) {
			f.Workload.Coming, f.Pod.Unable = 3, verdict.Unable{Pod: "voice/web-a", Why: call.Gone}
		}), verdict.SetAside, false, "bounds: a replacement comes first"},
		{"Its Deployment was deleted.", with(wanted(call.Orphan), func(f *verdict.Facts) { f.Workload.Able = 0 }), verdict.Drain, false, "floor: enough other pods can take calls"},
		{"It came after the cordon.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Pod.CameSince = true }), verdict.Hold, false,
			"bounds: it came after the drain began, and so would its replacement; to have it go all the same, annotate it with callguard.dev/leave"},
		{"However long ago.", with(wanted(call.NodeDrain), func(f *verdict.Facts) {
			f.Pod.CameSince, f.Now, f.Readings = true, at(9999), idle(9999)
		}), verdict.Hold, false,
			"bounds: it came after the drain began, and so would its replacement; to have it go all the same, annotate it with callguard.dev/leave"},

		{"No place for a replacement, and it has a call.", with(aside(3), func(f *verdict.Facts) { f.Now, f.Readings = at(9999), busy(9999) }), verdict.Hold, false,
			"floor: too few others of its workload can take calls; it goes on serving until replacements are ready"},
		{"Its call is over, and it has waited for long.", with(aside(3), func(f *verdict.Facts) { f.Now, f.Readings = at(1200), idle(1200) }), verdict.Drain, false,
			"patience: it is idle, and replacements that can take calls have not come within --replacement-wait"},
		{"Not for so long.", with(aside(3), func(f *verdict.Facts) { f.Now, f.Readings = at(1199), idle(1199) }), verdict.Hold, false,
			"floor: too few others of its workload can take calls; it goes on serving until replacements are ready"},
		{"It has no place to step aside to.", with(wanted(call.NodeDrain), func(f *verdict.Facts) { f.Now, f.Workload.Aside, f.Readings = at(1200), 4, idle(1200) }), verdict.Drain, false,
			"patience: it is idle, and replacements that can take calls have not come within --replacement-wait"},
		{"Nobody is ready, nor is it.", with(wanted(call.NodeDrain), func(f *verdict.Facts) {
			f.Now, f.Pod.Ready, f.Pod.UnreadySince, f.Workload.Able, f.Workload.Coming, f.Readings = at(60), false, at(0), 0, 3, idle(60)
		}), verdict.Drain, false, "patience: it is idle, and has not been ready for a minute"},
		{"Its probe failed once.", with(wanted(call.NodeDrain), func(f *verdict.Facts) {
			f.Now, f.Pod.Ready, f.Pod.UnreadySince, f.Workload.Able, f.Workload.Coming, f.Readings = at(59), false, at(0), 0, 3, idle(59)
		}), verdict.Hold, false, "bounds: replacement pods are not ready yet"},
		{"The team's deadline is over, and nobody takes its place.", with(aside(0), func(f *verdict.Facts) {
			f.Now, f.Deadline, f.Readings = at(5), call.Deadline{After: 5 * time.Second, Release: true}, busy(5)
		}), verdict.Drain, false, "patience: its own callguard.dev/drain-deadline has passed"},
		{"The rollout of a Deployment that does without one.", with(wanted(call.Rollout), func(f *verdict.Facts) {
			f.Pod.State, f.Workload.MaxUnavailable = call.Aside, 1
		}), verdict.Drain, false, "floor: enough other pods can take calls"},

		{"Its node is lost.", with(wanted(call.LostNode), func(f *verdict.Facts) { f.Pod.Ready = false }), verdict.SetAside, false, "bounds: a replacement comes first"},
		{"It takes no call as it is.", with(aside(3), func(f *verdict.Facts) { f.Pod.Ready, f.Intent.Intent = false, call.LostNode }), verdict.Drain, false, "floor: its node is lost"},
		{"LiveKit still sees its agent.", with(draining(call.LostNode, 99, known(1, 99), call.Unknown("no route")), func(f *verdict.Facts) { f.LeaseExpired = true }), verdict.Hold, false,
			"calls: it holds calls"},
		{"LiveKit has dropped its agent.",
			with(draining(call.LostNode, 999, known(0, 999), call.Unknown("no route")), func(f *verdict.Facts) { f.LeaseExpired, f.Readings[0].Since = true, at(900) }),
			verdict.Release, false, "lostnode: its node is lost and LiveKit lists no agent of it"},
		{"LiveKit has agents that may be its.", with(draining(call.LostNode, 999, known(0, 999).WithUnattributed(), call.Unknown("no route")), func(f *verdict.Facts) { f.LeaseExpired, f.Readings[0].Since = true, at(900) }),
			verdict.Hold, false, "unknown: its witness worker cannot tell whether it holds calls: no route; its node is lost, but there are agents in LiveKit that name no pod in attribute callguard.dev/pod"},
		{"Nobody knows whether its node is lost.", with(draining(call.LostNode, 999, known(0, 999), call.Unknown("no route")), func(f *verdict.Facts) { f.LeaseUnread, f.Readings[0].Since = errors.New("forbidden"), at(900) }),
			verdict.Hold, false, "unknown: its witness worker cannot tell whether it holds calls: no route; whether its node is lost is not known: forbidden"},
		{"Its Deployment is deleted meanwhile.",
			with(draining(call.Orphan, 999, known(0, 999), call.Unknown("no route")), func(f *verdict.Facts) { f.LostSince, f.LeaseExpired, f.Readings[0].Since = cordon, true, at(900) }),
			verdict.Release, false, "lostnode: its node is lost and LiveKit lists no agent of it"},
	}
	for _, tc := range steps {
		got := All().Judge(tc.facts)
		want := verdict.Verdict{Outcome: tc.outcome, Forced: tc.forced}
		want.Rule, want.Why, _ = strings.Cut(tc.says, ": ")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
		}
	}
}

// TestPromises checks in many thousand situations, likely and unlikely ones, what must
// hold for every verdict.
func TestPromises(t *testing.T) {
	const situations = 200_000
	random := rand.New(rand.NewSource(20260101))
	outcomes := map[verdict.Outcome]int{}
	rules := map[string]int{}
	for range situations {
		f := situation(random)
		v := All().Judge(f)
		if broken := promise(f, v); broken != "" {
			t.Fatalf("%s\nverdict: %+v\nfacts: %+v", broken, v, f)
		}
		if again := All().Judge(f); again != v {
			t.Fatalf("asked twice: %+v, then %+v", v, again)
		}
		outcomes[v.Outcome]++
		rules[v.Rule]++
	}
	for _, o := range []verdict.Outcome{verdict.Serve, verdict.SetAside, verdict.Drain, verdict.Release, verdict.Hold} {
		if outcomes[o] < situations/1000 {
			t.Errorf("only %d of the situations led to %s: they prove little about it", outcomes[o], o)
		}
	}
	for _, r := range All() {
		if rules[r.Name()] == 0 {
			t.Errorf("rule %s never spoke in %d situations", r.Name(), situations)
		}
	}
}

// promise names what a verdict breaks; empty if nothing.
func promise(f verdict.Facts, v verdict.Verdict) string {
	p := f.Pod
	why := v.Why
	for _, r := range f.Readings {
		why = strings.ReplaceAll(why, r.Reason(), "")
	}
	why = strings.ReplaceAll(strings.ReplaceAll(why, f.Workload.Unable.Sentence(), ""), f.Pod.Unable.Sentence(), "")
	switch {
	case v.Outcome == verdict.Abstain:
		return "there is always an answer"
	case v.Rule == "" || v.Why == "":
		return "every answer says who gave it and why"
	case strings.ContainsAny(why, "0123456789"):
		return "a sentence with a number changes while nothing does"
	case (f.Intent.Intent == "") != (v.Outcome == verdict.Serve):
		return "a pod is left alone exactly while nobody wants it to go"
	case v.Forced && v.Outcome != verdict.Release:
		return "only a release is forced"
	case v.Outcome == verdict.SetAside && p.State != call.Serving:
		return "only a serving pod is set aside"
	case v.Outcome == verdict.SetAside && (p.InPlace != "" || f.Intent.Intent == call.Orphan):
		return "what has no replacement is not set aside"
	case v.Outcome == verdict.SetAside && f.Intent.Intent.OfNode() &&
		(p.CameSince || f.Workload.Coming >= f.Workload.Surge && f.Workload.MinAvailable > 0 && p.Unable.Why == "" && f.Notice == "" || f.Workload.Aside >= f.Workload.Desired):
		return "for a node's sake pods are set aside within bounds only"
	case v.Outcome == verdict.Drain && p.State == call.Draining:
		return "no step is taken twice"
	case v.Outcome == verdict.Drain && f.Workload.Able < f.Floor() &&
		p.Running && (f.Intent.Intent != call.LostNode || p.Ready) && p.Unable.Why == "" && f.Overdue() == "" && !waitedEnough(f):
		return "no pod that takes calls stops while too few others can take them, but for a deadline, and for one that is idle and has waited"
	case v.Outcome == verdict.Hold && p.State != call.Draining && (f.Overdue() != "" || !p.CameSince && waitedEnough(f)):
		return "no pod waits for others forever"
	case v.Outcome == verdict.Hold && p.State == call.Draining && !p.DrainingSince.IsZero() && f.Overdue() != "" &&
		(f.Now.Sub(f.Pod.DrainingSince) >= f.Limits.Settle && !f.Idle() || f.Now.Sub(f.Pod.DrainingSince) >= f.Limits.Settle+10*time.Second):
		return "no deadline is passed over, but for seconds in which an idle pod may be believed"
	case v.Outcome == verdict.Release && p.State != call.Draining:
		return "only a pod that takes no new call is released"
	case v.Outcome == verdict.Release && !v.Forced && p.Running && !allZero(f) && !lost(f):
		return "a pod that may hold a call is released by force only"
	case v.Forced && f.LetGoBy.IsZero() && f.Limits.MaxHold == 0 && f.Limits.LostAfter == 0 && (!f.Deadline.Release || f.Deadline.After == 0):
		return "nothing is forced unless somebody has asked for it"
	default:
		return ""
	}
}

// waitedEnough reports whether a pod that is known to hold no call has waited for others
// long enough: until a limit, or while it accepted no call itself.
func waitedEnough(f verdict.Facts) bool {
	unready := !f.Pod.Ready && !f.Pod.UnreadySince.IsZero() && f.Now.Sub(f.Pod.UnreadySince) >= time.Minute
	from := f.Since
	if f.Workload.Arrived.After(from) {
		from = f.Workload.Arrived
	}
	halted := !f.Intent.Intent.OfNode() && (f.Workload.Able == 0 || f.Workload.Unable.Why != "")
	return f.Idle() && (unready || !halted && f.Now.Sub(from) >= f.Limits.ReplacementWait)
}

// allZero reports whether every witness reads zero, on a reading after the mark and,
// unless the gate has sealed the pod, after no call could be on its way. Without a seal a
// gate is no proof, and LiveKit alone has to read zero for as long. With one, LiveKit need
// not answer for an orphan, and has to be read after the gate's first such answer.
func allZero(f verdict.Facts) bool {
	var sealedSince time.Time
	for _, r := range f.Readings {
		if r.Witness == call.Gate {
			sealedSince = r.Since
		}
	}
	for _, r := range f.Readings {
		if !f.Sealed && (r.Witness == call.Gate || r.Witness == call.Rooms && len(f.Readings) == 1 && r.At().Sub(r.Since) < f.Limits.Settle) {
			return false
		}
		n, known := r.Calls()
		if !known && r.Witness == call.Rooms && f.Sealed && f.Intent.Intent == call.Orphan {
			continue
		}
		if !known || n != 0 || r.Witness == call.Rooms && !r.At().After(sealedSince) || !r.At().After(f.Pod.DrainingSince) || !f.Sealed && r.At().Sub(f.QuietSince) <= f.Limits.Settle {
			return false
		}
	}
	return len(f.Readings) > 0
}

// lost reports whether the node does not report, no witness counts a call, and LiveKit has
// seen no agent that may be the pod's for long enough.
func lost(f verdict.Facts) bool {
	unseen := false
	for _, r := range f.Readings {
		n, known := r.Calls()
		if known && n > 0 {
			return false
		}
		if r.Witness == call.Rooms && known && !r.Unattributed() && r.At().After(f.Pod.DrainingSince) && r.At().Sub(r.Since) >= f.Limits.LostQuiet {
			unseen = true
		}
	}
	return unseen && !f.LostSince.IsZero() && f.LeaseExpired
}

// situation is a possible situation, or one of many that should not happen.
func situation(random *rand.Rand) verdict.Facts {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	maybe := func(oneIn int) bool { return random.Intn(oneIn) == 0 }
	ago := func(seconds int) time.Time { return now.Add(-time.Duration(random.Intn(seconds*4)) * time.Second / 4) }
	limit := func() time.Duration {
		if maybe(2) {
			return 0
		}
		return time.Duration(1+random.Intn(200)) * time.Second
	}
	f := verdict.Facts{
		Now: now,
		Pod: verdict.Pod{
			State: call.States()[random.Intn(3)], CameSince: maybe(6), Running: !maybe(5), Ready: !maybe(3),
		},
		Workload: verdict.Workload{
			Desired: random.Intn(5), MinAvailable: random.Intn(6), Surge: 1 + random.Intn(3), MaxUnavailable: random.Intn(2), Able: random.Intn(6),
			Coming: random.Intn(4), Aside: random.Intn(5), Recreate: maybe(5),
		},
		Sealed: maybe(4), LeaseExpired: maybe(2),
		Deadline: call.Deadline{After: limit(), Release: maybe(2)},
		Limits:   verdict.Limits{Settle: time.Duration(random.Intn(30)) * time.Second, MaxHold: limit(), ReplacementWait: limit(), LostQuiet: limit(), LostAfter: limit()},
	}
	if !maybe(8) {
		intents := call.Intents()
		f.Intent, f.Since = call.Mark{Intent: intents[random.Intn(len(intents))], At: ago(200)}, ago(200)
		if !maybe(5) {
			f.Standing = f.Since
		}
	}
	if maybe(6) {
		f.Notice = "spot"
	}
	if maybe(6) {
		f.LetGoBy = now.Add(time.Minute).Add(now.Sub(ago(60)) * -2)
	}
	if !f.Pod.Ready && maybe(2) {
		f.Pod.UnreadySince = ago(200)
	}
	if maybe(3) {
		f.Workload.Arrived = ago(200)
	}
	if maybe(3) {
		f.LostSince = ago(200)
	}
	if maybe(3) {
		f.Pod.InPlace = "it has no owner that would replace it"
	}
	if maybe(3) {
		f.Chosen = "its ReplicaSet has more pods than it wants, and it is idle"
	}
	why := func() call.Ability {
		list := append(call.Inabilities(), call.Silent)
		return list[random.Intn(len(list))]
	}
	if maybe(5) {
		f.Workload.Unable = verdict.Unable{Pod: "voice/web-6f7d-x2", Secret: "voice/livekit-1", Why: why()}
	}
	if maybe(10) {
		f.Pod.Unable = verdict.Unable{Pod: "voice/web-6f7d-x1", Why: why()}
	}
	if f.Pod.State == call.Draining && !maybe(20) {
		f.Pod.DrainingSince = ago(200)
	}
	f.QuietSince = f.Pod.DrainingSince
	if maybe(4) {
		if began := ago(200); began.After(f.QuietSince) {
			f.QuietSince = began
		}
	}
	witnesses := call.DefaultWitnesses()
	if maybe(3) {
		witnesses = []call.Witness{call.Rooms, call.Gate}
	}
	for _, w := range witnesses {
		switch random.Intn(6) {
		case 0: // not asked
		case 1:
			f.Readings = append(f.Readings, verdict.Reading{Witness: w, Reading: call.Unknown("port 8081 of 10.0.0.7 is closed")})
		case 2:
			f.Readings = append(f.Readings, verdict.Reading{Witness: w, Reading: call.Known(1+random.Intn(5), ago(200)), Since: ago(400)})
		default:
			at := ago(200)
			reading := call.Known(0, at)
			if maybe(3) {
				reading = reading.WithUnattributed()
			}
			f.Readings = append(f.Readings, verdict.Reading{Witness: w, Reading: reading, Since: at.Add(-time.Duration(random.Intn(200)) * time.Second)})
		}
	}
	return f
}

// TestAdvice: every verdict comes with what to do about it.
func TestAdvice(t *testing.T) {
	names := []string{(verdict.Rules{}).Judge(verdict.Facts{}).Rule}
	for _, r := range All() {
		names = append(names, r.Name())
	}
	for _, name := range names {
		if a, known := All().Advice(name); !known || a.Waits == "" || a.Do == "" {
			t.Errorf("there is no advice on rule %q", name)
		}
	}
	if _, known := All().Advice("unheard-of"); known {
		t.Error("there is advice on a rule that does not exist")
	}
}
