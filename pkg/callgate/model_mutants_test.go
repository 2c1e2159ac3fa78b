// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"strings"
	"testing"
	"time"
)

// TestTheModelFindsBrokenRules breaks each rule of evidence on purpose: the model, which
// finds no fault in the rules, finds each of these.
func TestTheModelFindsBrokenRules(t *testing.T) {
	drained, stays := "drained, and", "count "
	cases := map[string]struct {
		reason string
		mutant mutant
		want   string // in the failure; empty: any
	}{
		"LaunchLimitOf15s": {
			reason: "A process may take longer than the agent's default says.",
			mutant: mutant{limits: func(l *limits) { l.launch = 15 * time.Second }},
		},
		"NumberEndsWhatWasNotLaunched": {
			reason: "A job that waits for its process is not in the number.",
			mutant: mutant{book: func(b *book) {
				for _, j := range b.inLocked(assigned) {
					j.to(launched, j.started)
				}
			}},
		},
		"LaunchesAreNamedAtOnce": {
			reason: "A rise of the number says that a job was launched, not which.",
			mutant: mutant{book: func(b *book) {
				for _, j := range b.inLocked(assigned) {
					if b.number.unnamed > 0 {
						b.number.unnamed--
						j.to(launched, j.since)
					}
				}
			}},
		},
		"WordsAreNotHeard": {
			reason: "Where a worker says that it has launched a job, the limit is not waited for; that of one that does not say so is not its end.",
			mutant: mutant{noWords: true, noNames: true, book: func(b *book) {
				for s := range b.sessions {
					b.reports[s] = true
				}
			}},
		},
		"TheTerminationIsTheEnd": {
			reason: "The process works on after its agent has left the room.",
			mutant: mutant{leaveIsEnd: true},
		},
		"NoWorkAfterTheCall": {
			reason: "Work after a call takes up to 5 minutes.",
			mutant: mutant{limits: func(l *limits) { l.ending = 20 * time.Second }},
		},
		"NoDoubtOfRooms": {
			reason: "A restarted LiveKit knows no room until its callers are back.",
			mutant: mutant{limits: func(l *limits) { l.gone = 0 }},
		},
		"BlindIsAbsent": {
			reason: "A look that fails says nothing.",
			mutant: mutant{blindIsAbsent: true, limits: func(l *limits) { l.gone, l.ending = 2*time.Second, 6*time.Second }},
		},
		"JournalAfterTheFact": {
			reason: "A gate that is killed between the assignment and its line in the journal leaves a job out.",
			mutant: mutant{lateJournal: true},
		},
		"ProcessesAlwaysEnd": {
			reason: "A process that never ends does not hold the pod.",
			mutant: mutant{limits: func(l *limits) { l.ending = time.Hour }},
			want:   stays,
		},
		"TheLimitEndsNothing": {
			reason: "A job that no process ever had does not count forever.",
			mutant: mutant{limits: func(l *limits) { l.launch = 24 * time.Hour }},
			want:   stays,
		},
		"TheListAlwaysWins": {
			reason: "A job that only Redis remembers does not count forever.",
			mutant: mutant{limits: func(l *limits) { l.lack = 24 * time.Hour }},
			want:   stays,
		},
		"GivenUpIsForgotten": {
			reason: "A launch may be that of a job that was given up: the one that waits still counts.",
			mutant: mutant{
				limits: func(l *limits) { l.gone = 3 * time.Second },
				book:   func(b *book) { b.past = nil },
			},
		},
		"AcceptedIsNoCall": {
			reason: "LiveKit assigns accepted jobs.",
			mutant: mutant{limits: func(l *limits) { l.reserve = time.Millisecond }},
		},
		"ZeroAtOnce": {
			reason: "A gate without a journal does not know jobs accepted before its start.",
			mutant: mutant{book: func(b *book) { b.whole = true }},
			want:   drained,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed, why := play(20_000, tc.mutant)
			switch {
			case why == "":
				t.Errorf("%s The model does not find it", tc.reason)
			case !strings.Contains(why, tc.want):
				t.Errorf("%s world %d goes wrong in another way than %q: %s", tc.reason, seed, tc.want, why)
			default:
				failure, _, _ := strings.Cut(why, "\n")
				t.Logf("found in world %d: %s", seed, failure)
			}
		})
	}
}
