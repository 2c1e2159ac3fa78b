// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

// answerOf is LiveKit's answer about one room.
type answerOf struct {
	room livekit.Room
	err  error
}

// answers is a LiveKit with the given answer about each room.
type answers map[string]answerOf

func (a answers) Room(_ context.Context, name string) (livekit.Room, error) {
	return a[name].room, a[name].err
}

// ours and theirs are agents with the same name, as in an application that gives its
// agent a fixed identity.
func ours() livekit.Agent   { return livekit.Agent{Identity: "agent", Pod: "pod"} }
func theirs() livekit.Agent { return livekit.Agent{Identity: "agent", Pod: "another"} }

func withAgent() answerOf {
	return answerOf{room: livekit.Room{Open: true, Agents: []livekit.Agent{ours()}}}
}

func refusing(with string) answerOf {
	return answerOf{err: &livekit.Refused{Answer: with, Cure: "check what it says"}}
}

// looking is the part that looks into rooms. Jobs are named after their rooms, began one
// after the other, and are known to run.
func looking(t *testing.T, rooms answers, jobs ...string) (*ends, *trial.Log) {
	t.Helper()
	logs := &trial.Log{}
	began := time.Now().Add(-time.Hour)
	b := newBook("pod", DefaultLaunchLimit, began, NewMetrics(prometheus.NewRegistry()))
	b.restore(legacy{}, true)
	for i, name := range jobs {
		at := began.Add(time.Duration(i) * time.Second)
		b.assign(1, name, name, "agent", at)
		b.saw(name, sight{open: true, there: true}, at)
	}
	e, err := newEnds(b, Config{Log: slog.New(slog.NewTextHandler(logs, nil))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.rooms = rooms
	t.Cleanup(e.close)
	return e, logs
}

// seen returns what the looks found out about a job.
func (b *book) seen(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch j := b.jobs[id]; {
	case j.looked.IsZero():
		return "not looked at"
	case !j.blind.IsZero():
		return "no answer"
	case j.absent.IsZero():
		return "there"
	}
	return "absent"
}

// TestWhoseAgentIsInTheRoom has agents of several pods and names in a job's room.
func TestWhoseAgentIsInTheRoom(t *testing.T) {
	cases := map[string]struct {
		reason string
		agents []livekit.Agent
		want   string
	}{
		"Ours":                {"It has the pod's attribute and the job's identity.", []livekit.Agent{ours()}, "there"},
		"AnotherPodsSameName": {"Agents of two pods may have one identity; the attribute decides.", []livekit.Agent{theirs()}, "absent"},
		"Both":                {"Ours is there beside the other.", []livekit.Agent{theirs(), ours()}, "there"},
		"OurOtherJob":         {"Another job of the pod is in the same room.", []livekit.Agent{{Identity: "agent-2", Pod: "pod"}}, "absent"},
		"Unstamped":           {"An agent that took its attributes off is known by its identity.", []livekit.Agent{{Identity: "agent"}}, "there"},
		"UnstampedOther":      {"Another identity without attributes is somebody else.", []livekit.Agent{{Identity: "agent-2"}}, "absent"},
		"Nobody":              {"The room is open and holds no agent.", nil, "absent"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, _ := looking(t, answers{"a": {room: livekit.Room{Open: true, Agents: tc.agents, Others: 1}}}, "a")
			e.look(t.Context())
			if diff := cmp.Diff(tc.want, e.book.seen("a")); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestLookPastTrouble has LiveKit refuse the room of the oldest job: the others are still
// looked at, and the log has it once, until all can be looked at.
func TestLookPastTrouble(t *testing.T) {
	rooms := answers{"a": refusing("401"), "b": {}, "c": withAgent(), "d": refusing("401")}
	e, logs := looking(t, rooms, "a", "b", "c", "d")
	all := func() []string {
		return []string{e.book.seen("a"), e.book.seen("b"), e.book.seen("c"), e.book.seen("d")}
	}
	for range 3 {
		e.look(t.Context())
		if diff := cmp.Diff([]string{"no answer", "absent", "there", "no answer"}, all()); diff != "" {
			t.Fatalf("-want, +got:\n%s", diff)
		}
		e.book.forgetLooks()
	}
	if n := strings.Count(logs.String(), "cannot look into the rooms"); n != 1 {
		t.Errorf("the log speaks %d times of one trouble:\n%s", n, logs)
	}
	rooms["a"], rooms["d"] = withAgent(), refusing("500")
	e.look(t.Context())
	if n := strings.Count(logs.String(), "cannot look into the rooms"); n != 2 || strings.Contains(logs.String(), "again") {
		t.Errorf("the log should have another error, and not that one room works:\n%s", logs)
	}
	e.book.forgetLooks()
	rooms["d"] = withAgent()
	e.look(t.Context())
	if n := strings.Count(logs.String(), "can look into the rooms of its jobs again"); n != 1 {
		t.Errorf("the log says %d times that all is well:\n%s", n, logs)
	}
}

// TestLookTurns: asking about one room breaks the connection each time. The round ends
// there, and the next one begins with the rooms that were skipped.
func TestLookTurns(t *testing.T) {
	e, logs := looking(t, answers{"a": {err: errors.New("connection reset")}, "b": withAgent(), "c": {}}, "a", "b", "c")
	e.look(t.Context())
	if got := []string{e.book.seen("a"), e.book.seen("b")}; !slices.Equal(got, []string{"no answer", "there"}) || e.book.jobs["b"].looked.After(e.book.jobs["a"].looked) {
		t.Fatalf("after the first round: %q", got)
	}
	e.book.jobs["a"].looked = time.Now().Add(-2 * lookEvery) // this one is due as well
	e.look(t.Context())
	if got := []string{e.book.seen("b"), e.book.seen("c")}; !slices.Equal(got, []string{"there", "absent"}) {
		t.Errorf("after the second round: %q", got)
	}
	if !strings.Contains(logs.String(), "check that LiveKit runs") {
		t.Errorf("the log: %s", logs)
	}
	// A look that is interrupted by the gate's own end reports nothing.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	e.book.forgetLooks()
	e.look(ended)
	if got := e.book.seen("b"); got != "not looked at" {
		t.Errorf("after the end: %q", got)
	}
}

// TestNoLookPastTheLimit: LiveKit is asked too often. That says nothing about any job,
// and is no problem to log.
func TestNoLookPastTheLimit(t *testing.T) {
	e, logs := looking(t, answers{"a": {err: &livekit.TooMany{Until: time.Now().Add(time.Minute)}}, "b": {}}, "a", "b")
	e.look(t.Context())
	if got := []string{e.book.seen("a"), e.book.seen("b")}; !slices.Equal(got, []string{"no answer", "there"}) {
		t.Errorf("after a look past the limit: %q", got)
	}
	if logs.String() != "" {
		t.Errorf("the log: %s", logs)
	}
}

// forgetLooks makes every room due.
func (b *book) forgetLooks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		j.looked = time.Time{}
	}
}
