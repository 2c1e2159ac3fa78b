// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
)

func TestIntent(t *testing.T) {
	const delay = 30 * time.Second
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	ago := func(seconds int) time.Time { return now.Add(-time.Duration(seconds) * time.Second) }
	mark := func(intent call.Intent, seconds int) call.Mark { return call.Mark{Intent: intent, At: ago(seconds)} }
	none := call.Mark{}
	cases := map[string]struct {
		reason string
		causes Causes
		want   call.Mark
	}{
		"Nothing": {reason: "A pod that does not have to leave has no intent.", want: none},

		"Orphaned": {reason: "Its owner is gone.", causes: Causes{Orphaned: ago(5)}, want: mark(call.Orphan, 5)},
		"Excess":   {reason: "It was chosen.", causes: Causes{Excess: mark(call.Rollout, 5)}, want: mark(call.Rollout, 5)},
		"Cordoned": {reason: "A cordon counts at once.", causes: Causes{Cordoned: now}, want: mark(call.NodeDrain, 0)},
		"Asked":    {reason: "An operator's wish counts at once.", causes: Causes{Asked: now}, want: mark(call.Operator, 0)},

		"LostTooSoon":       {reason: "The pod still tolerates its node.", causes: Causes{Lost: now.Add(time.Nanosecond)}, want: none},
		"LostNow":           {reason: "The toleration ends at its last moment.", causes: Causes{Lost: now}, want: mark(call.LostNode, 0)},
		"LostSince":         {reason: "The node is lost since the toleration ended.", causes: Causes{Lost: ago(5)}, want: mark(call.LostNode, 5)},
		"TaintTooSoon":      {reason: "An autoscaler may remove its mark.", causes: Causes{Tainted: ago(30).Add(time.Nanosecond)}, want: none},
		"TaintNow":          {reason: "After the delay it means it, since it began.", causes: Causes{Tainted: ago(30)}, want: mark(call.NodeDrain, 30)},
		"TaintedAndCordon":  {reason: "A cordon waits for no delay.", causes: Causes{Tainted: ago(1), Cordoned: now}, want: mark(call.NodeDrain, 0)},
		"TaintedAndAsked":   {reason: "While a taint does not count, a wish does.", causes: Causes{Tainted: ago(1), Asked: ago(3)}, want: mark(call.Operator, 3)},
		"LostLaterAndAsked": {reason: "While a lost node does not count, a wish does.", causes: Causes{Lost: now.Add(time.Second), Asked: ago(3)}, want: mark(call.Operator, 3)},

		"GoingNow":         {reason: "A notice counts from its first second.", causes: Causes{Going: now}, want: mark(call.NodeDrain, 0)},
		"GoingAndTainted":  {reason: "A mark that an autoscaler may remove has its own delay.", causes: Causes{Going: ago(1), Tainted: ago(1)}, want: mark(call.NodeDrain, 1)},
		"CandidateTooSoon": {reason: "An autoscaler marks many nodes, and takes most marks off.", causes: Causes{Candidate: now.Add(time.Nanosecond)}, want: none},
		"CandidateNow":     {reason: "A mark that has lasted means it.", causes: Causes{Candidate: now}, want: mark(call.NodeDrain, 0)},
		"CandidateTainted": {reason: "A node that is being removed counts as going, since then.", causes: Causes{Candidate: ago(5), Tainted: ago(30)}, want: mark(call.NodeDrain, 30)},
		"DaemonGoing":      {reason: "A DaemonSet's pod belongs to its node.", causes: Causes{Daemon: true, Going: ago(9)}, want: none},
		"DaemonCandidate":  {reason: "A DaemonSet's pod belongs to its node.", causes: Causes{Daemon: true, Candidate: ago(9)}, want: none},
		"DaemonCordoned":   {reason: "A drain leaves DaemonSets alone.", causes: Causes{Daemon: true, Cordoned: ago(9)}, want: none},
		"DaemonTainted":    {reason: "A drain leaves DaemonSets alone.", causes: Causes{Daemon: true, Tainted: ago(99)}, want: none},
		"DaemonAsked":      {reason: "An operator means this pod.", causes: Causes{Daemon: true, Cordoned: ago(9), Asked: ago(2)}, want: mark(call.Operator, 2)},
		"DaemonLost":       {reason: "A pod of a lost node is lost.", causes: Causes{Daemon: true, Cordoned: ago(9), Lost: ago(2)}, want: mark(call.LostNode, 2)},
		"DaemonRollout":    {reason: "A DaemonSet rolls out as others do.", causes: Causes{Daemon: true, Cordoned: ago(9), Excess: mark(call.Rollout, 2)}, want: mark(call.Rollout, 2)},
		"DaemonOrphaned":   {reason: "A deleted DaemonSet wants its pods gone.", causes: Causes{Daemon: true, Orphaned: ago(2)}, want: mark(call.Orphan, 2)},

		"OrphanOvertakesAll": {
			reason: "Nothing is wanted of an orphan's workload, so nothing holds it but its calls.",
			causes: Causes{
				Orphaned: ago(1), Marked: mark(call.NodeDrain, 50), Excess: mark(call.ScaleDown, 40), Lost: ago(30),
				Cordoned: ago(20), Tainted: ago(60), Asked: ago(10),
			},
			want: mark(call.Orphan, 1),
		},
		"LostOvertakesMark": {
			reason: "A pod whose node is lost cannot be asked any more.",
			causes: Causes{Marked: mark(call.Rollout, 50), Lost: ago(30)}, want: mark(call.LostNode, 30),
		},
		"MarkBeforeLost": {
			reason: "Until the toleration ends its node may come back.",
			causes: Causes{Marked: mark(call.Rollout, 50), Lost: now.Add(time.Second)}, want: mark(call.Rollout, 50),
		},
		"MarkIsOneWay": {
			reason: "A cancelled drain changes nothing for a pod that has begun to leave.",
			causes: Causes{Marked: mark(call.NodeDrain, 50)}, want: mark(call.NodeDrain, 50),
		},
		"MarkBeforeExcess": {
			reason: "A pod that has begun to leave keeps its cause and its date.",
			causes: Causes{Marked: mark(call.NodeDrain, 50), Excess: mark(call.ScaleDown, 5), Cordoned: ago(60), Asked: ago(70)},
			want:   mark(call.NodeDrain, 50),
		},
		"MarkOfDaemon": {
			reason: "A DaemonSet's pod that was asked to go is still to go when its node is cordoned.",
			causes: Causes{Daemon: true, Marked: mark(call.Operator, 50), Cordoned: ago(5)}, want: mark(call.Operator, 50),
		},
		"ExcessBeforeNode": {
			reason: "A surplus pod needs no replacement.",
			causes: Causes{Excess: mark(call.ScaleDown, 5), Lost: ago(30), Cordoned: ago(20), Tainted: ago(60), Asked: ago(10)},
			want:   mark(call.ScaleDown, 5),
		},
		"LostBeforeCordon": {
			reason: "A lost node's pods wait for a lease, not for their agents.",
			causes: Causes{Lost: ago(5), Cordoned: ago(20), Tainted: ago(60), Asked: ago(10)}, want: mark(call.LostNode, 5),
		},
		"CordonBeforeTaint": {
			reason: "Both are a drain; the cordon dates it.",
			causes: Causes{Cordoned: ago(20), Tainted: ago(60)}, want: mark(call.NodeDrain, 20),
		},
		"AskedBeforeCordon": {
			reason: "An operator's wish is about this very pod, and also takes one that came back to a cordoned node.",
			causes: Causes{Cordoned: ago(20), Tainted: ago(60), Asked: ago(10)}, want: mark(call.Operator, 10),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, wanted := Intent(tc.causes, now, delay)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
			if wanted != (tc.want != none) {
				t.Errorf("%s\nwanted to go: %t", tc.reason, wanted)
			}
		})
	}
}

func TestIntentWithoutDelay(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	if got, wanted := Intent(Causes{Tainted: now}, now, 0); !wanted || got.Intent != call.NodeDrain {
		t.Errorf("Intent = %v, %t; an administrator may have a taint count at once", got, wanted)
	}
}

// TestBehind checks which of several causes is behind an intent: deadlines count from when
// that was first seen.
func TestBehind(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	marked := func(i call.Intent) call.Mark { return call.Mark{Intent: i, At: at} }
	cases := map[string]struct {
		reason string
		causes Causes
		want   string
	}{
		"Nothing":         {reason: "It does not have to leave."},
		"Cordoned":        {reason: "Somebody waits for its node.", causes: Causes{Cordoned: at, Marked: marked(call.NodeDrain)}, want: "drain"},
		"Cancelled":       {reason: "Nothing waits for its node any more; it still leaves.", causes: Causes{Marked: marked(call.NodeDrain)}},
		"Misfit":          {reason: "Its DaemonSet wants it gone.", causes: Causes{Misfit: at}, want: "drain"},
		"Removal":         {reason: "An autoscaler waits, and may remove its mark.", causes: Causes{Tainted: at}, want: "removal"},
		"Both":            {reason: "A cordon stays.", causes: Causes{Tainted: at, Cordoned: at}, want: "drain"},
		"Asked":           {reason: "An operator waits.", causes: Causes{Asked: at, Marked: marked(call.ScaleDown)}, want: "operator"},
		"Rollout":         {reason: "It is aside, and its rollout is over only when it is gone.", causes: Causes{Marked: marked(call.Rollout)}, want: "rollout"},
		"RolloutInPlace":  {reason: "Its rollout waits for it.", causes: Causes{Excess: marked(call.Rollout)}, want: "rollout"},
		"ScaleDown":       {reason: "Nothing waits for a surplus pod.", causes: Causes{Excess: marked(call.ScaleDown)}},
		"ScaledDown":      {reason: "Nothing waits for a surplus pod.", causes: Causes{Marked: marked(call.ScaleDown)}},
		"ScaledThenDrain": {reason: "But for its node.", causes: Causes{Marked: marked(call.ScaleDown), Cordoned: at}, want: "drain"},
		"Orphaned":        {reason: "Its owner is gone, whatever began its road.", causes: Causes{Marked: marked(call.ScaleDown), Orphaned: at, Cordoned: at}, want: "orphan"},
		"Lost":            {reason: "Its node is silent, and was cordoned by somebody who noticed.", causes: Causes{Lost: at, Cordoned: at}, want: "lost-node"},
	}
	for name, tc := range cases {
		if got := tc.causes.Behind(); got != tc.want {
			t.Errorf("%s: %s Got %q, want %q", name, tc.reason, got, tc.want)
		}
	}
}

// TestNothingStandsBehindAMark: a node is not worth a call, so no deadline counts from an autoscaler's mark. A node that
// really goes is different.
func TestNothingStandsBehindAMark(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for want, causes := range map[string]Causes{
		"":        {Candidate: at, Marked: call.Mark{Intent: call.NodeDrain, At: at}},
		"removal": {Candidate: at, Tainted: at},
		"drain":   {Candidate: at, Going: at},
	} {
		if got := causes.Behind(); got != want {
			t.Errorf("the cause behind %+v is %q, want %q", causes, got, want)
		}
	}
}
