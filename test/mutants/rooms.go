// SPDX-License-Identifier: Apache-2.0

package main

// roomsMutants break what is concluded from LiveKit, agents and gates.
func roomsMutants() []Mutant {
	rooms := func(file, name, old, new, test, harm string) Mutant {
		return Mutant{Name: "rooms/" + name, File: "pkg/witness/rooms/" + file + ".go", Old: old, New: new, Package: "pkg/witness/rooms", Test: test, Harm: harm}
	}
	witness := func(where, file, name, old, new, test, harm string) Mutant {
		return Mutant{Name: "witness/" + name, File: where + "/" + file + ".go", Old: old, New: new, Package: where, Test: test, Harm: harm}
	}
	const gone = "case !open && at.Sub(s.missing) >= b.confirm && !at.Before(b.doubtUntil):"
	return []Mutant{
		rooms("book", "missing-is-gone", "case left(s.SID) || back[s.Pod]:", "case true:", "TestBook",
			"one list of LiveKit that lacks an agent ends its call"),
		rooms("book", "second-list-at-once", gone, "case !open && !at.Before(b.doubtUntil):", "TestBook",
			"two lists in a row that lack an agent end its call, however close they are"),
		rooms("book", "gone-in-mid-sweep", gone, "case at.Sub(s.missing) >= b.confirm && !at.Before(b.doubtUntil):", "TestBook",
			"a restarted LiveKit loses calls before it is seen how much it lost"),
		rooms("book", "no-doubt", gone, "case !open && at.Sub(s.missing) >= b.confirm:", "TestBook",
			"a restarted LiveKit, whose agents are on their way back, loses their calls"),
		rooms("book", "doubt-is-zero", "case h.missing > 0 && now.Before(b.doubtUntil):", "case h.missing < 0 && now.Before(b.doubtUntil):", "TestBook",
			"while LiveKit's lists are in doubt, pods are said to hold what they held"),
		rooms("book", "older-list-wins", "case !at.After(entry.readAt):", "case !at.After(entry.readAt.Add(-time.Hour)):", "TestBook",
			"a list that was asked for before, and came later, ends calls"),
		rooms("book", "nothing-is-much", "some >= 3 && 2*some > all", "some >= 3 && 2*some > 100*all", "TestBook",
			"a LiveKit that lost most of its rooms is believed"),
		rooms("book", "outage-leaves-no-doubt", "{ b.doubtUntil = at.Add(b.doubt) }", "{ b.doubtUntil = at }", "TestBook",
			"a LiveKit that was away is believed at once"),
		rooms("book", "listed-again-stays-missing", "case listed[s.SID] && !s.missing.IsZero():", "case listed[s.SID] && s.missing.After(at):", "TestBook",
			"an agent that is listed again is taken for gone later"),
		rooms("book", "nameless-agents", "b.unattributed += seats\n", "", "TestUnattributedAgents",
			"agents that name no pod are forgotten, and pods with calls read zero"),
		rooms("reader", "stale-is-believed", "case now.Sub(r.sweptAt) > r.staleness(now):", "case now.Sub(r.sweptAt) > 1000*r.staleness(now):", "TestFailuresNeverMakeAZero",
			"what LiveKit said long ago counts"),
		rooms("reader", "unread-is-zero", "case r.sweptAt.IsZero():\n\t\treturn fmt.Errorf(\"LiveKit project %s has not been read yet: %w\", r.cfg.Project, cause)", "case r.sweptAt.IsZero():\n\t\treturn nil", "TestLimitTooLow",
			"a project that was never read has no calls"),
		rooms("reader", "unreadable-room", "if now.Sub(known) > r.staleness(now) {", "if now.Sub(known) > 1000*r.staleness(now) {", "TestOneUnreadableRoom",
			"a room that cannot be read is believed for good"),
		rooms("projects", "only-one-server", "for _, r := range readers[1:] {", "for _, r := range readers[:0] {", "TestSecretRewritten",
			"calls on the LiveKit that a Secret named before are lost"),
		rooms("projects", "other-server-is-unknown", "if most.Known() {\n\t\t\t\tmost = next\n\t\t\t}", "", "TestSecretRewritten",
			"a pod reads zero though one of its LiveKit servers does not answer"),

		witness("pkg/witness/gate", "answer", "gate-of-another-pod", "case a.Pod != pod:", "case a.Pod != pod && a.Pod == \"\":", "TestParse",
			"another pod's gate answers for this one's calls"),
		witness("pkg/witness/gate", "answer", "gate-without-calls", "case known == nil || calls == nil:\n", "case known == nil && calls == nil:\n", "TestParse",
			"something that is no gate is taken for one"),
		witness("pkg/witness/gate", "answer", "gate-that-does-not-know", "if !a.Known {\n\t\treturn call.Unknown(", "if !a.Known && a.Calls > 0 {\n\t\treturn call.Unknown(", "TestParse",
			"a gate that does not know is taken to have said zero"),
		witness("pkg/witness/worker", "answer", "agent-without-a-version", "case answer.SDKVersion == \"\":", "case answer.SDKVersion == \"none\":", "TestParse",
			"any JSON object of any server is an agent without calls"),
		witness("pkg/witness/worker", "answer", "half-a-job", "jobs < 0 || jobs > maxJobs || jobs != math.Trunc(jobs)", "jobs < 0 || jobs > maxJobs || jobs != math.Ceil(jobs) && jobs > 1", "TestParse",
			"a number that is none is believed, as zero"),
		witness("pkg/witness/poll", "poll", "old-answers-count", "case !a.at.IsZero() && now.Sub(a.at) <= p.cfg.MaxStaleness:", "case !a.at.IsZero():", "TestRoad",
			"what an agent said long ago counts"),
		witness("pkg/witness", "doubt", "disbelief-at-once", "return now.Sub(c.since) >= disbelief", "return now.Sub(c.since) >= 0", "TestACallThatOnlyLiveKitKnows",
			"autoscalers do not see calls that the agent's own number has late"),
		witness("pkg/witness", "ledger", "smallest-number-counts", "case x > y || x == y && a.At().Before(b.At()):", "case x < y || x == y && a.At().Before(b.At()):", "TestMerge",
			"autoscalers see the witness that has fewer calls"),
		witness("pkg/call", "call", "nobody-asked-is-zero", "func (r Reading) Calls() (int, bool) { return r.calls, r.known }", "func (r Reading) Calls() (int, bool) { return r.calls, r.known || r.reason == \"\" }", "TestZeroReadingIsUnknown",
			"a witness that nobody has asked says zero"),
		witness("pkg/call", "call", "empty-mark-is-none", "func (r Reading) Sealed() bool { return r.known && r.sealed }", "func (r Reading) Sealed() bool { return r.sealed }", "TestOnlyAKnownReadingIsSealed",
			"a gate that does not know how many calls it has is taken at its word"),
	}
}
