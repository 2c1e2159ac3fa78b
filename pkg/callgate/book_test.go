// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

var errSilent = errors.New("connection refused")

// TestBook plays frames and the agents' numbers, and checks the counts. A step's name
// begins with the second at which it happens.
func TestBook(t *testing.T) {
	type step struct {
		at   float64
		do   func(b *book, now time.Time)
		want string // accepted/running/ending/unlisted, and d for drained, ? for unknown
	}
	take := func(id string) func(*book, time.Time) {
		return func(b *book, now time.Time) {
			b.offer(1, id, "room-"+id, now)
			b.accept(1, id, "agent-"+id, now)
			b.assign(1, id, "room-"+id, "agent-"+id, now)
		}
	}
	number := func(n int) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.tell(n, 1, nil, false, now, now) }
	}
	withKey := func(n int) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.tell(n, 1, nil, true, now, now) }
	}
	late := func(n int) func(*book, time.Time) { // they were asked a second ago
		return func(b *book, now time.Time) { b.tell(n, 1, nil, false, now.Add(-time.Second), now) }
	}
	silent := func(b *book, now time.Time) { b.tell(0, 0, errSilent, false, now, now) }
	mute := func(b *book, now time.Time) { b.tell(0, 0, errSilent, true, now, now) } // with a key
	unseen := func(id string) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.unseen(id, now) }
	}
	leave := func(id string) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.leave(id, now) }
	}
	end := func(id string) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.end(1, id, now) }
	}
	found := func(id string, there bool) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.saw(id, sight{open: true, there: there}, now) }
	}
	gone := func(id string) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.saw(id, sight{}, now) }
	}
	runs := func(id string) func(*book, time.Time) {
		return func(b *book, now time.Time) { b.launched(1, id, now) }
	}
	takeMany := func(n int) func(*book, time.Time) {
		return func(b *book, now time.Time) {
			for i := range n {
				take(fmt.Sprint("job-", i))(b, now)
			}
		}
	}
	noLook := func(b *book, now time.Time) { // no room needs a look
		for _, j := range b.look(now) {
			t.Errorf("the room of %s is looked at", j.id)
		}
	}
	drain := func(b *book, _ time.Time) { b.drain("drain 2026-01-02T15:04:05Z") }
	begin := func(b *book, _ time.Time) { b.restore(legacy{}, true); b.register(1) }
	unused := func(b *book, _ time.Time) { b.restore(legacy{}, true) }
	again := func(b *book, _ time.Time) { b.register(1) } // an earlier gate is not known

	cases := map[string]struct {
		reason string
		steps  []step
	}{
		"PythonCall": {
			reason: "A worker's report that a job has ended counts at once.",
			steps: []step{
				{0, begin, "0/0/0/0"},
				{1, func(b *book, now time.Time) { b.offer(1, "a", "r", now) }, "0/0/0/0"},
				{1, func(b *book, now time.Time) { b.accept(1, "a", "x", now) }, "1/0/0/0"},
				{2, func(b *book, now time.Time) { b.assign(1, "a", "r", "x", now) }, "0/1/0/0"},
				{3, number(1), "0/1/0/0"}, {60, end("a"), "0/0/0/0"}, {61, number(0), "0/0/0/0"},
			},
		},
		"NodeCall": {
			reason: "A Node worker says nothing: the agent leaves its room, then its number falls.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"},
				{60, leave("a"), "0/0/1/0"}, {60.1, number(1), "0/0/1/0"}, {60.5, number(0), "0/0/0/0"},
			},
		},
		"ChurnDoesNotLag": {
			reason: "While one job is launched, another's end shows in the fall of the number.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"},
				{30, leave("a"), "0/0/1/0"}, {30.1, take("b"), "0/1/1/0"}, {30.2, number(0), "0/1/0/0"}, {31, number(1), "0/1/0/0"},
			},
		},
		"OldNumber": {
			reason: "A number from before a launch lacks the launched job, and not the one that works after its call.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"},
				{61, take("b"), "0/1/1/0"}, {62, runs("b"), "0/1/1/0"}, {62.5, late(1), "0/1/1/0"}, {64, number(2), "0/1/1/0"}, {70, number(1), "0/1/0/0"},
			},
		},
		"SlowLaunch": {
			reason: "A job that is being launched is missing from the number and counts.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(0), "0/1/0/0"}, {14, number(0), "0/1/0/0"}, {15, number(1), "0/1/0/0"},
			},
		},
		"FailedLaunch": {
			reason: "A job that never came to be does not stay forever, but minutes.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {17, number(0), "0/1/0/0"}, {300, number(0), "0/1/0/0"}, {302, number(0), "0/1/0/0"}, {303, number(0), "0/1/0/0"}, {306, number(0), "0/0/0/0"},
			},
		},
		"FailedLaunchBesideACaller": {
			reason: "A room that waits for its agent outweighs the number, as long as the agent may join.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {17, withKey(0), "0/1/0/0"}, {60, withKey(0), "0/1/0/0"},
				{61, found("a", false), "0/1/0/0"}, {100, found("a", false), "0/1/0/0"}, {200, withKey(0), "0/1/0/0"},
				{302, withKey(0), "0/1/0/0"}, {303, withKey(0), "0/1/0/0"}, {422, withKey(0), "0/1/0/0"}, {423, withKey(0), "0/0/0/0"},
			},
		},
		"CallerGoneBeforeTheLaunch": {
			reason: "A job whose room has closed has no caller; a list that lacks a room for a moment is no proof.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(0), "0/1/0/0"}, {10, gone("a"), "0/1/0/0"}, {15, gone("a"), "0/1/0/0"},
				{20, found("a", false), "0/1/0/0"}, {25, gone("a"), "0/1/0/0"}, {54, gone("a"), "0/1/0/0"}, {55, gone("a"), "0/0/0/0"},
			},
		},
		"GivenUpAndThereAfterAll": {
			reason: "A job that was given up comes back under its own name.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {10, gone("a"), "0/1/0/0"}, {40, gone("a"), "0/0/0/0"},
				{41, drain, "0/0/0/0 d"}, {42, runs("a"), "0/1/0/0"}, {43, withKey(1), "0/1/0/0"}, {90, end("a"), "0/0/0/0 d"},
			},
		},
		"PythonWithoutWarmProcesses": {
			reason: "The worker says yes, and its process is there half a minute later (P1, P3).",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, drain, "0/1/0/0"}, {18, number(0), "0/1/0/0"}, {39, number(0), "0/1/0/0"},
				{40, runs("a"), "0/1/0/0"}, {41, number(1), "0/1/0/0"}, {90, end("a"), "0/0/0/0 d"},
			},
		},
		"PythonTenAtOnce": {
			reason: "Ten jobs wait for two processes at a time, besides two calls (P2).",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {1, take("b"), "0/2/0/0"}, {2, runs("a"), "0/2/0/0"}, {2, runs("b"), "0/2/0/0"}, {3, number(2), "0/2/0/0"},
				{10, takeMany(10), "0/12/0/0"}, {11, number(2), "0/12/0/0"}, {18, number(4), "0/12/0/0"}, {26, number(6), "0/12/0/0"}, {40, number(8), "0/12/0/0"},
				{200, number(10), "0/12/0/0"}, {240, number(12), "0/12/0/0"},
			},
		},
		"PythonEndsAnUnlaunchedJob": {
			reason: "A Python worker does not heed LiveKit's end of a job that it has not launched: it comes.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, runs("a"), "0/1/0/0"}, {3, number(1), "0/1/0/0"}, {4, end("a"), "0/0/0/0"},
				{10, take("b"), "0/1/0/0"}, {11, number(0), "0/1/0/0"}, {12, leave("b"), "0/1/0/0"}, {30, number(0), "0/1/0/0"}, {40, runs("b"), "0/1/0/0"},
			},
		},
		"LaunchAndEndInOneLook": {
			reason: "A number that stays may be one that ended and one that began: the one that began counts.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"},
				{61, take("b"), "0/1/1/0"}, {61.1, number(1), "0/1/1/0"}, {400, number(1), "0/1/1/0"}, {401, number(1), "0/1/0/0"}, {900, number(1), "0/1/0/0"},
			},
		},
		"LateYes": {
			reason: "LiveKit waits 3 s for an answer: no job follows a later one (P9).",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, func(b *book, now time.Time) { b.offer(1, "a", "r", now) }, "0/0/0/0"},
				{5, func(b *book, now time.Time) { b.accept(1, "a", "x", now) }, "0/0/0/0"}, {6, drain, "0/0/0/0"}, {19, number(0), "0/0/0/0"}, {20, number(0), "0/0/0/0 d"},
			},
		},
		"LateYesAndAssigned": {
			reason: "Should LiveKit have waited after all, the job counts.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, func(b *book, now time.Time) { b.offer(1, "a", "r", now) }, "0/0/0/0"},
				{5, func(b *book, now time.Time) { b.accept(1, "a", "x", now) }, "0/0/0/0"}, {6, drain, "0/0/0/0"},
				{7, func(b *book, now time.Time) { b.assign(1, "a", "r", "x", now) }, "0/1/0/0"},
			},
		},
		"NoLookWorksAndTheNumberIsLow": {
			reason: "Where LiveKit could be asked and never answers, a number that stays low for minutes ends a job.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {20, unseen("a"), "0/1/0/0"},
				{30, withKey(0), "0/1/0/0"}, {149, withKey(0), "0/1/0/0"}, {150, withKey(0), "0/0/0/0"},
			},
		},
		"NoLookWorksAndTheNumberIsLowAnew": {
			reason: "The minutes are those for which the number was low, and not those for which LiveKit was silent.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {20, unseen("a"), "0/1/0/0"},
				{30, withKey(0), "0/1/0/0"}, {140, withKey(1), "0/1/0/0"}, {610, withKey(0), "0/1/0/0"}, {729, withKey(0), "0/1/0/0"}, {730, withKey(0), "0/0/0/0"},
			},
		},
		"OnlyRedisRemembers": {
			reason: "A number that has said zero for minutes outweighs a list that has the agent forever (V1).",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {20, found("a", true), "0/1/0/0"}, {30, withKey(0), "0/1/0/0"},
				{32, found("a", true), "0/1/0/0"}, {100, found("a", true), "0/1/0/0"}, {149, withKey(0), "0/1/0/0"}, {150, withKey(0), "0/0/0/0"},
			},
		},
		"LackingOneAfterTheOther": {
			reason: "The minutes of the second begin when it is lacking, too.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {1, take("b"), "0/2/0/0"}, {2, withKey(2), "0/2/0/0"},
				{30, withKey(1), "0/2/0/0"}, {100, withKey(0), "0/2/0/0"}, {219, withKey(0), "0/2/0/0"}, {220, withKey(0), "0/0/0/0"},
			},
		},
		"NoLookWorksAndTheAgentIsAtWork": {
			reason: "A job that was said to have left and that the number has may be in its room; a process that never ends does not hold the pod forever.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {20, unseen("a"), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"},
				{61, unseen("a"), "0/0/1/0"}, {700, withKey(1), "0/0/1/0"}, {3659, withKey(1), "0/0/1/0"}, {3660, withKey(1), "0/0/0/0"}, {3670, withKey(1), "0/0/0/0"},
			},
		},
		"NoLookWorksAndTheAgentIsThereAfterAll": {
			reason: "The look that works at last finds the agent that was said to have left.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {9, leave("a"), "0/0/1/0"}, {10, unseen("a"), "0/0/1/0"},
				{1800, withKey(1), "0/0/1/0"}, {1801, found("a", true), "0/1/0/0"}, {7200, withKey(1), "0/1/0/0"},
			},
		},
		"NoLookWorksNorTheWorkerPage": {
			reason: "LiveKit's word that the agent left is all there is.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, mute, "0/1/0/0"}, {20, unseen("a"), "0/1/0/0"}, {900, leave("a"), "0/0/1/0"},
				{1499, mute, "0/0/1/0"}, {1500, mute, "0/0/0/0"},
			},
		},
		"NobodySaysThatItEnded": {
			reason: "A running job of which there is no word at all is not known to have ended, however long that lasts.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, mute, "0/1/0/0"}, {3, func(b *book, _ time.Time) { b.lose(1) }, "0/1/0/0"},
				{20, unseen("a"), "0/1/0/0"}, {90000, mute, "0/1/0/0"},
			},
		},
		"LostFromTheListForAMoment": {
			reason: "LiveKit's lists lose a participant and have it again.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {30, found("a", false), "0/1/0/0"}, {31, found("a", true), "0/1/0/0"},
				{33, found("a", false), "0/1/0/0"}, {34, found("a", true), "0/1/0/0"},
			},
		},
		"TerminatedAndStillThere": {
			reason: "An agent whose first try to join failed is there by its second, though LiveKit ended the job.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {9, leave("a"), "0/0/1/0"}, {10, found("a", true), "0/1/0/0"},
			},
		},
		"LateJoinOfTwo": {
			reason: "The fall of the number takes those first that LiveKit said had left.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {1, take("b"), "0/2/0/0"}, {3, number(2), "0/2/0/0"},
				{30, leave("b"), "0/1/1/0"}, {31, number(1), "0/1/0/0"}, {50, number(1), "0/1/0/0"},
			},
		},
		"CrashWithoutAWord": {
			reason: "A number that stays low ends a job that no other evidence has ended.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {3, number(1), "0/1/0/0"}, {20, number(0), "0/1/0/0"}, {22, number(0), "0/1/0/0"}, {23.1, number(0), "0/0/0/0"},
			},
		},
		"LowForAMoment": {
			reason: "A number that is low once ends nothing.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {3, number(1), "0/1/0/0"}, {20, number(0), "0/1/0/0"}, {22, number(1), "0/1/0/0"}, {40, number(0), "0/1/0/0"},
			},
		},
		"WorkerPageOff": {
			reason: "Without the agent's number the agent's leave is the end, a little later.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, silent, "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {65, silent, "0/0/1/0"}, {70, silent, "0/0/0/0"},
			},
		},
		"WorkerPageFallsSilent": {
			reason: "An agent that reported its number and is silent now may still be working.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {90, silent, "0/0/1/0"}, {91, number(0), "0/0/0/0"},
			},
		},
		"ZombieProcess": {
			reason: "A process that never ends does not hold the pod forever, nor comes back as another job. Which of two has ended, a number does not say: the call counts.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {300, number(1), "0/0/1/0"},
				{421, number(1), "0/0/0/0"}, {430, number(1), "0/0/0/0"}, {440, take("b"), "0/1/0/0"}, {441, number(2), "0/1/0/0"}, {450, leave("b"), "0/0/1/0"}, {451, number(1), "0/0/1/0"}, {809, number(1), "0/0/1/0"}, {810, number(1), "0/0/0/0"},
			},
		},
		"ZombieEndsBesideACall": {
			reason: "A process that was given up and ends at last takes no call with it.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {421, number(1), "0/0/0/0"},
				{430, take("b"), "0/1/0/0"}, {431, number(2), "0/1/0/0"}, {440, drain, "0/1/0/0"},
				{500, number(1), "0/1/0/0"}, {504, number(1), "0/1/0/0"}, {900, number(1), "0/1/0/0"},
				{901, leave("b"), "0/0/1/0"}, {902, number(0), "0/0/0/0 d"},
			},
		},
		"ZombieEndsBesideACallWithKey": {
			reason: "Nor is the call's room looked at again and again.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, withKey(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {61, found("a", false), "0/0/1/0"},
				{421, withKey(1), "0/0/0/0"}, {430, take("b"), "0/1/0/0"}, {431, withKey(2), "0/1/0/0"}, {440, drain, "0/1/0/0"},
				{500, withKey(1), "0/1/0/0"}, {504, withKey(1), "0/1/0/0"}, {505, found("b", true), "0/1/0/0"}, {510, withKey(1), "0/1/0/0"}, {511, noLook, "0/1/0/0"},
				{901, leave("b"), "0/0/1/0"}, {902, withKey(0), "0/0/0/0 d"},
			},
		},
		"ZombieEndsBesideTheUnlisted": {
			reason: "Nor one that is unnamed.",
			steps: []step{
				{0, again, "0/0/0/0 ?"}, {1, number(1), "0/0/0/1"}, {320, take("a"), "0/1/0/1"}, {321, number(2), "0/1/0/1"}, {360, leave("a"), "0/0/1/1"},
				{721, number(2), "0/0/0/1"}, {800, number(1), "0/0/0/1"}, {810, number(1), "0/0/0/1"}, {811, drain, "0/0/0/1"}, {900, number(0), "0/0/0/0 d"},
			},
		},
		"ZombieEndsAsACallBegins": {
			reason: "A number that has not changed may be another's.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {421, number(1), "0/0/0/0"},
				{430, take("b"), "0/1/0/0"}, {431, number(1), "0/1/0/0"}, {446, number(1), "0/1/0/0"}, {450, number(1), "0/1/0/0"}, {900, number(1), "0/1/0/0"},
				{901, leave("b"), "0/0/1/0"}, {902, number(0), "0/0/0/0"},
			},
		},
		"ZombieOutlivesACall": {
			reason: "A call that ends meanwhile shows in the number, whichever evidence comes first.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"}, {2, number(1), "0/1/0/0"}, {60, leave("a"), "0/0/1/0"}, {421, number(1), "0/0/0/0"},
				{430, take("b"), "0/1/0/0"}, {431, number(2), "0/1/0/0"}, {500, end("b"), "0/0/0/0"}, {500.1, number(2), "0/0/0/0"}, {501, number(1), "0/0/0/0"},
				{510, take("c"), "0/1/0/0"}, {511, number(2), "0/1/0/0"}, {600, leave("c"), "0/0/1/0"}, {601, number(1), "0/0/1/0"}, {960, number(1), "0/0/0/0"},
				{970, take("d"), "0/1/0/0"}, {971, number(2), "0/1/0/0"}, {1000, number(1), "0/1/0/0"}, {1100, number(1), "0/1/0/0"},
			},
		},
		"AcceptedNeverAssigned": {
			reason: "An accepted offer holds the pod for as long as LiveKit could assign it.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, func(b *book, now time.Time) { b.offer(1, "a", "r", now); b.accept(1, "a", "x", now) }, "1/0/0/0"},
				{2, drain, "1/0/0/0"}, {15, number(0), "1/0/0/0"}, {17, number(0), "0/0/0/0 d"},
			},
		},
		"AssignedAfterTheOrder": {
			reason: "A job that was accepted before the order is served.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, func(b *book, now time.Time) { b.offer(1, "a", "r", now); b.accept(1, "a", "x", now) }, "1/0/0/0"},
				{2, drain, "1/0/0/0"}, {3, func(b *book, now time.Time) { b.assign(1, "a", "r", "x", now) }, "0/1/0/0"},
				{9, number(1), "0/1/0/0"}, {60, end("a"), "0/0/0/0 d"},
			},
		},
		"WebsocketLost": {
			reason: "On a lost websocket nothing can be assigned any more; running jobs continue.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, take("a"), "0/1/0/0"},
				{2, func(b *book, now time.Time) { b.offer(1, "b", "r", now); b.accept(1, "b", "x", now) }, "1/1/0/0"},
				{3, func(b *book, _ time.Time) { b.lose(1) }, "0/1/0/0"},
			},
		},
		"StartedAgainWithoutJournal": {
			reason: "A gate that knows no jobs gets their number, and does not trust a first zero.",
			steps: []step{
				{0, again, "0/0/0/0 ?"}, {1, number(0), "0/0/0/0 ?"}, {2, number(1), "0/0/0/1"}, {3, drain, "0/0/0/1"},
				{30, number(1), "0/0/0/1"}, {40, number(0), "0/0/0/0 ?"}, {300, number(0), "0/0/0/0 d"},
			},
		},
		"StartedAgainIdle": {
			reason: "The agent's zero counts once an earlier job would have been launched.",
			steps:  []step{{0, again, "0/0/0/0 ?"}, {299, number(0), "0/0/0/0 ?"}, {300, number(0), "0/0/0/0"}},
		},
		"StartedAgainAndNamed": {
			reason: "LiveKit Agents for Python names its jobs when it registers again.",
			steps: []step{
				{0, again, "0/0/0/0 ?"}, {1, number(2), "0/0/0/2"},
				{2, func(b *book, now time.Time) { b.adopt(1, []string{"a", "b"}, now) }, "0/2/0/0"}, {3, number(2), "0/2/0/0"}, {4, end("a"), "0/1/0/0"},
			},
		},
		"UnlistedIsNotTakenForEnding": {
			reason: "A job of an earlier gate outlives one of this gate.",
			steps: []step{
				{0, again, "0/0/0/0 ?"}, {1, number(1), "0/0/0/1"}, {320, take("a"), "0/1/0/1"}, {321, number(2), "0/1/0/1"},
				{360, leave("a"), "0/0/1/1"}, {361, number(1), "0/0/0/1"}, {900, number(1), "0/0/0/1"}, {901, number(0), "0/0/0/0"},
			},
		},
		"TwoWorkersOnePort": {
			reason: "The number of one worker does not cover the other's jobs.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, func(b *book, _ time.Time) { b.register(2) }, "0/0/0/0"}, {2, take("a"), "0/1/0/0"},
				{30, number(0), "0/1/0/0"}, {60, number(0), "0/1/0/0"}, {61, leave("a"), "0/0/1/0"}, {62, number(0), "0/0/1/0"}, {71, number(0), "0/0/0/0"},
			},
		},
		"Bypassed": {
			reason: "An agent that bypasses the gate is counted by its number, and is not known to have stopped.",
			steps: []step{
				{0, unused, "0/0/0/0 ?"}, {1, silent, "0/0/0/0 ?"}, {2, drain, "0/0/0/0 ?"},
				{3, number(2), "0/0/0/2"}, {60, number(0), "0/0/0/0"}, {61, again, "0/0/0/0 d"},
			},
		},
		"RefusedByLiveKit": {
			reason: "A worker with a wrong key has come, and can have no job.",
			steps:  []step{{0, unused, "0/0/0/0 ?"}, {1, func(b *book, _ time.Time) { b.comes() }, "0/0/0/0"}, {2, drain, "0/0/0/0 d"}},
		},
		"UsedBefore": {
			reason: "A worker came to an earlier gate.",
			steps:  []step{{0, func(b *book, _ time.Time) { b.restore(legacy{workers: 1}, true) }, "0/0/0/0"}, {1, drain, "0/0/0/0 d"}},
		},
		"TheOrderStays": {
			reason: "An order is not taken back while the gate runs.",
			steps: []step{
				{0, begin, "0/0/0/0"}, {1, drain, "0/0/0/0 d"}, {2, func(b *book, _ time.Time) { b.drain("") }, "0/0/0/0 d"},
			},
		},
	}
	start := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBook("pod", DefaultLaunchLimit, start, NewMetrics(prometheus.NewRegistry()))
			for i, s := range tc.steps {
				now := start.Add(time.Duration(s.at * float64(time.Second)))
				s.do(b, now)
				a := b.answer(now)
				got := fmt.Sprintf("%d/%d/%d/%d", a.Accepted, a.Running, a.Ending, a.Unlisted)
				if a.Drained {
					got += " d"
				}
				if !a.Known {
					got += " ?"
				}
				if diff := cmp.Diff(s.want, got); diff != "" {
					t.Fatalf("%s\nstep %d at %g s, accepted/running/ending/unlisted -want, +got:\n%s", tc.reason, i, s.at, diff)
				}
			}
		})
	}
}

// TestNoAcceptAfterTheOrder: many workers accept while the order to drain arrives. What is accepted is in the first answer
// that reports the order, or never.
func TestNoAcceptAfterTheOrder(t *testing.T) {
	for range 50 {
		now := time.Now()
		b := newBook("pod", DefaultLaunchLimit, now, NewMetrics(prometheus.NewRegistry()))
		b.restore(legacy{}, true)
		taken := make(chan int)
		const workers, offers = 8, 200
		for w := range workers {
			go func() {
				n := 0
				for i := range offers {
					id := fmt.Sprintf("%d-%d", w, i)
					if b.offer(uint64(w), id, "r", now) && b.accept(uint64(w), id, "x", now) {
						n++
					}
				}
				taken <- n
			}()
		}
		b.drain("drain now")
		told := b.answer(now).Accepted
		sum := 0
		for range workers {
			sum += <-taken
		}
		if sum != told {
			t.Fatalf("%d offers were accepted when the order was reported, %d in the end", told, sum)
		}
	}
}

// TestTheOrderRefuses an offer that comes after the order, and an acceptance of one that came before.
func TestTheOrderRefuses(t *testing.T) {
	now := time.Now()
	b := newBook("pod", DefaultLaunchLimit, now, NewMetrics(prometheus.NewRegistry()))
	b.restore(legacy{}, true)
	b.register(1)
	for _, id := range []string{"before", "between"} {
		if !b.offer(1, id, "r", now) {
			t.Errorf("offer %s is refused, and there is no order", id)
		}
	}
	if !b.accept(1, "before", "x", now) {
		t.Error("a yes is refused, and there is no order")
	}
	b.drain("drain now")
	if b.accept(1, "between", "x", now) {
		t.Error("the acceptance of an offer from before the order is passed on; want a refusal, because the gate may have reported that no call will come")
	}
	if b.offer(1, "after", "r", now) {
		t.Error("an offer is passed on after the order; want a no, so that LiveKit asks another pod")
	}
	if a := b.answer(now); a.Accepted != 1 || a.Offered != 0 || a.Calls != 1 {
		t.Errorf("accepted/offered/calls are %d/%d/%d; want 1/0/1", a.Accepted, a.Offered, a.Calls)
	}
}

func TestParseOrder(t *testing.T) {
	const mark = "drain 2026-01-02T15:04:05Z"
	cases := map[string]struct{ reason, text, want string }{
		"All":       {"The kubelet writes all annotations as key and quoted value.", "a=\"b\"\ncallguard.dev/draining=\"" + mark + "\"\nz=\"\"\n", mark},
		"None":      {"Other annotations are no order.", "a=\"b\"\nkubernetes.io/config.seen=\"2026\"\n", ""},
		"Empty":     {"No annotation at all is no order.", "", ""},
		"Bare":      {"The file may hold the one annotation alone.", mark, mark},
		"BareLine":  {"With a line end, too.", mark + "\n", mark},
		"EmptyMark": {"An annotation without a value is no order.", "callguard.dev/draining=\"\"\n", ""},
		"Strange":   {"Whatever the value says, it is an order.", "callguard.dev/draining=\"yes\"\n", "yes"},
		"Escapes": {
			"A value that looks like an order inside another annotation is none.",
			"note=\"x\\ncallguard.dev/draining=\\\"drain 2026-01-02T15:04:05Z\\\"\"\n", "",
		},
		"Prefix": {"Another annotation's name is longer.", "callguard.dev/draining-since=\"x\"\n", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, parseOrder(tc.text)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestJournalFollowsTheBook kills a gate after each step of a job: the next gate knows the job from when its worker gets it
// until it has ended.
func TestJournalFollowsTheBook(t *testing.T) {
	dir, now, log := t.TempDir(), time.Now(), slog.New(slog.DiscardHandler)
	open := func() *book {
		j, err := openJournal(dir, log)
		if err != nil {
			t.Fatal(err)
		}
		left, err := j.read()
		if err != nil {
			t.Fatal(err)
		}
		b := newBook("pod", DefaultLaunchLimit, now, NewMetrics(prometheus.NewRegistry()))
		b.journal = j
		b.restore(left, j.whole)
		return b
	}
	b := open()
	b.register(1)
	for _, step := range []struct {
		what string
		do   func()
		want phase // empty: the next gate does not know the job
	}{
		{"an offer", func() { b.offer(1, "a", "room", now); b.accept(1, "a", "agent", now) }, ""},
		{"its assignment", func() { b.assign(1, "a", "room", "agent", now) }, assigned},
		{"its launch", func() { b.launched(1, "a", now) }, launched},
		{"its end", func() { b.end(1, "a", now) }, ""},
	} {
		step.do()
		var got phase
		if j := open().jobs["a"]; j != nil {
			got = j.phase
		}
		if got != step.want {
			t.Errorf("after %s the next gate has the job as %q; want %q", step.what, got, step.want)
		}
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	j, err := openJournal(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := j.read(); len(left.jobs) != 0 || left.workers != 0 || err != nil {
		t.Errorf("an empty folder is a first start; got %v, %v", left, err)
	}
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	a, b := record{ID: "AJ_a", Room: "r", Agent: "x", Started: at}, record{ID: "../b/%", Room: "r", Agent: "y", Started: at}
	j.add(a)
	j.add(b)
	j.add(record{ID: "gone", Started: at})
	j.drop("gone")
	j.drop("never")
	j.number(workersFile, 2)
	j.number(unlistedFile, 1)
	j.flush()
	// A gate was killed in the middle of a write.
	if err := os.WriteFile(filepath.Join(dir, "AJ_half.job"), []byte(`{"id":"AJ_ha`), 0o600); err != nil {
		t.Fatal(err)
	}
	left, err := j.read()
	if err != nil {
		t.Fatal(err)
	}
	want := legacy{jobs: []record{b, a, {ID: "AJ_half"}}, workers: 2, unlisted: 1}
	if diff := cmp.Diff(want, left, cmp.AllowUnexported(legacy{})); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if _, err := openJournal(dir+"/none", log); err == nil || !strings.Contains(err.Error(), "emptyDir") {
		t.Errorf("a missing folder must say what to do; got %v", err)
	}
}
