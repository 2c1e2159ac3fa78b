// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/test/trial"
)

// answerOf is how a LiveKit answers of one room.
type answerOf struct {
	status int
	media  string
	body   string
}

// looking is what looks into rooms, before a LiveKit that answers of each room as
// it is told; a room that it is told nothing of cuts the connection. Jobs are named
// as their rooms, begun one after the other.
func looking(t *testing.T, rooms map[string]answerOf, jobs ...string) (*ends, *trial.Log) {
	t.Helper()
	livekit := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			Room string `json:"room"`
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		a, ok := rooms[asked.Room]
		if !ok {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", a.media)
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
	}))
	livekit.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(livekit.Close)
	u, err := url.Parse(livekit.URL)
	if err != nil {
		t.Fatal(err)
	}
	logs := &trial.Log{}
	began := time.Now().Add(-time.Hour)
	b := newBook("pod", began, NewMetrics(prometheus.NewRegistry()))
	b.restore(nil, 0, true)
	for i, name := range jobs {
		b.assign(1, name, name, "agent", began.Add(time.Duration(i)*time.Second))
	}
	e := newEnds(b, Config{APIKey: "key", APISecret: "hidden", Log: slog.New(slog.NewTextHandler(logs, nil))}, u, http.DefaultTransport)
	t.Cleanup(e.close)
	return e, logs
}

// seen says what the looks have found of a job.
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

const (
	withAgent = `{"participants":[{"identity":"agent","state":"ACTIVE"}]}`
	leftAgent = `{"participants":[{"identity":"agent","state":"DISCONNECTED"},{"identity":"caller","state":"ACTIVE"}]}`
	notFound  = `{"code":"not_found","msg":"requested room does not exist"}`
)

// TestLook answers a look in every way there is. An answer that is not LiveKit's
// own says nothing of the agent, and the log says what to set.
func TestLook(t *testing.T) {
	const asJSON = "application/json"
	cases := map[string]struct {
		reason string
		answer answerOf
		want   string
		log    string // empty: nothing to say
	}{
		"There":          {"It is listed.", answerOf{200, asJSON, withAgent}, "there", ""},
		"Disconnected":   {"It is listed as one that has left.", answerOf{200, asJSON, leftAgent}, "absent", ""},
		"Empty":          {"Nobody is in the room.", answerOf{200, asJSON + "; charset=utf-8", `{}`}, "absent", ""},
		"NoSuchRoom":     {"A room that has closed holds no agent.", answerOf{404, asJSON, notFound}, "absent", ""},
		"NoSuchPage":     {"A 404 of something between is not LiveKit's.", answerOf{404, "text/html", "<h1>not_found</h1>"}, "no answer", "check the gate's LIVEKIT_URL"},
		"NoSuchPageJSON": {"Nor is one in JSON.", answerOf{404, asJSON, `{"error":"not_found"}`}, "no answer", "check the gate's LIVEKIT_URL"},
		"NoSuchMethod":   {"A server without rooms says nothing of them.", answerOf{404, asJSON, `{"code":"bad_route","msg":"no handler"}`}, "no answer", "check the gate's LIVEKIT_URL"},
		"OtherText":      {"The code counts, not the type alone.", answerOf{404, "text/plain", notFound}, "no answer", "check the gate's LIVEKIT_URL"},
		"NotFoundAs200":  {"A success without a list is an empty room, as LiveKit writes it.", answerOf{200, asJSON, `{"participants":[]}`}, "absent", ""},
		"EmptyPage":      {"A page of something between is not an empty room.", answerOf{200, "text/html", ""}, "no answer", "check the gate's LIVEKIT_URL"},
		"HalfAList":      {"Half a list is none.", answerOf{200, asJSON, withAgent[:20]}, "no answer", "check the gate's LIVEKIT_URL"},
		"WrongKey":       {"The key was replaced.", answerOf{401, asJSON, `{"code":"unauthenticated","msg":"invalid token"}`}, "no answer", "check the gate's LIVEKIT_API_KEY and LIVEKIT_API_SECRET"},
		"NoRight":        {"The key may not do it.", answerOf{403, asJSON, `{"code":"permission_denied","msg":"no"}`}, "no answer", "check the gate's LIVEKIT_API_KEY and LIVEKIT_API_SECRET"},
		"Unavailable":    {"LiveKit has trouble.", answerOf{503, asJSON, `{"code":"unavailable","msg":"no response from servers"}`}, "no answer", "LiveKit's log says why"},
		"TooLarge":       {"More than the gate reads.", answerOf{200, asJSON, strings.Repeat(" ", maxRoom) + withAgent}, "no answer", "keep less in their metadata"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, logs := looking(t, map[string]answerOf{"+4930123456": tc.answer}, "+4930123456")
			e.look(t.Context())
			if diff := cmp.Diff(tc.want, e.book.seen("+4930123456")); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
			if said := logs.String(); !strings.Contains(said, tc.log) || (said == "") != (tc.log == "") {
				t.Errorf("%s the log says %q; want %q", tc.reason, said, tc.log)
			}
			for _, secret := range []string{"hidden", "4930123456", "Bearer"} {
				if strings.Contains(logs.String(), secret) {
					t.Errorf("the log names %q: %s", secret, logs)
				}
			}
		})
	}
}

// TestLookPastTrouble has LiveKit refuse the room of the oldest job: the others are
// looked at all the same, and the log says so once, until all can be looked at.
func TestLookPastTrouble(t *testing.T) {
	rooms := map[string]answerOf{
		"a": {401, "application/json", `{"code":"unauthenticated"}`},
		"b": {404, "application/json", notFound},
		"c": {200, "application/json", withAgent},
		"d": {401, "application/json", `{"code":"unauthenticated"}`},
	}
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
	rooms["a"], rooms["d"] = rooms["c"], answerOf{503, "application/json", `{"code":"unavailable"}`}
	e.look(t.Context())
	if n := strings.Count(logs.String(), "cannot look into the rooms"); n != 2 || strings.Contains(logs.String(), "again") {
		t.Errorf("another trouble is told, and that one room is well is no news:\n%s", logs)
	}
	e.book.forgetLooks()
	rooms["d"] = rooms["c"]
	e.look(t.Context())
	if n := strings.Count(logs.String(), "can look into the rooms of its jobs again"); n != 1 {
		t.Errorf("the log says %d times that all is well:\n%s", n, logs)
	}
}

// TestLookTurns has one room cost the connection each time it is asked for: the
// round ends there, and the next begins with those that had no turn.
func TestLookTurns(t *testing.T) {
	rooms := map[string]answerOf{
		"b": {200, "application/json", withAgent},
		"c": {404, "application/json", notFound},
	}
	e, logs := looking(t, rooms, "a", "b", "c")
	e.look(t.Context())
	if got := []string{e.book.seen("a"), e.book.seen("b")}; !slices.Equal(got, []string{"no answer", "not looked at"}) {
		t.Fatalf("after the first round: %q", got)
	}
	e.book.jobs["a"].looked = time.Now().Add(-2 * lookEvery) // it is due as well
	e.look(t.Context())
	if got := []string{e.book.seen("b"), e.book.seen("c")}; !slices.Equal(got, []string{"there", "absent"}) {
		t.Errorf("after the second round: %q", got)
	}
	if !strings.Contains(logs.String(), "check that it runs") {
		t.Errorf("the log: %s", logs)
	}
	// A look that the gate's own end interrupts says nothing.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	e.book.forgetLooks()
	e.look(ended)
	if got := e.book.seen("b"); got != "not looked at" {
		t.Errorf("after the end: %q", got)
	}
}

// forgetLooks has every room be due.
func (b *book) forgetLooks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		j.looked = time.Time{}
	}
}
