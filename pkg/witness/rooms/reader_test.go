// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

func testSettings() Settings {
	return Settings{Resync: 300 * time.Millisecond, MaxStaleness: 900 * time.Millisecond, Timeout: 200 * time.Millisecond, Concurrency: 4}
}

// overNetwork runs a Reader of the server until the test ends.
func overNetwork(t *testing.T, server http.Handler) *Reader {
	t.Helper()
	ts := httptest.NewServer(server)
	t.Cleanup(ts.Close)
	return runReader(t, ts.URL, http.DefaultTransport, nil)
}

// inNoTime runs a story of a Reader of lk in simulated time, which passes when all wait
// for it, so that no machine is too slow.
func inNoTime(t *testing.T, lk http.Handler, change func(*Config), story func(*testing.T, *Reader)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(nobodyAnswers) }) // cancelled requests have ended
		story(t, runReader(t, "http://livekit.example", direct{lk}, change))
	})
}

func runReader(t *testing.T, url string, transport http.RoundTripper, change func(*Config)) *Reader {
	t.Helper()
	cfg := Config{
		Project: call.DefaultProject,
		Credentials: func(context.Context) (livekit.Credentials, error) {
			return livekit.Credentials{URL: url, APIKey: "key", APISecret: "secret"}, nil
		},
		Transport: transport,
		Settings:  testSettings(),
		Metrics:   NewMetrics(prometheus.NewRegistry()),
		Log:       slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	r := NewReader(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// reads reports whether a pod is known to hold a number of calls.
func reads(r *Reader, pod types.UID, want int) func() bool {
	return func() bool {
		n, known := r.Reading(pod, time.Now()).Calls()
		return known && n == want
	}
}

func unknown(r *Reader, pod types.UID) func() bool {
	return func() bool { return !r.Reading(pod, time.Now()).Known() }
}

// TestFailuresNeverMakeAZero breaks LiveKit in every way, during a call, and checks that
// the call becomes unknown, is never gone, and is read again once LiveKit works.
func TestFailuresNeverMakeAZero(t *testing.T) {
	body := func(status int, contentType, text string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			if _, err := w.Write([]byte(text)); err != nil {
				panic(err)
			}
			return true
		}
	}
	cases := map[string]struct {
		breaks, mends func(*fakeLiveKit)
	}{
		"Answers500":          {breaks: func(f *fakeLiveKit) { f.break_ = body(500, "text/plain", "oops") }},
		"EmptyPageFromAProxy": {breaks: func(f *fakeLiveKit) { f.break_ = body(200, "text/html", "") }},
		"RubbishAsProtobuf":   {breaks: func(f *fakeLiveKit) { f.break_ = body(200, "application/protobuf", "rubbish") }},
		"NotFoundFromAProxy":  {breaks: func(f *fakeLiveKit) { f.break_ = body(404, "text/plain", "no such page") }},
		"Redirects":           {breaks: func(f *fakeLiveKit) { f.break_ = body(302, "text/html", "elsewhere") }},
		"Hangs": {breaks: func(f *fakeLiveKit) {
			f.break_ = func(http.ResponseWriter) bool { time.Sleep(300 * time.Millisecond); return true }
		}},
		"CutsTheConnection": {breaks: func(f *fakeLiveKit) { f.break_ = func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) } }},
		"ChangesItsKeys":    {breaks: func(f *fakeLiveKit) { f.secret = "other" }, mends: func(f *fakeLiveKit) { f.secret = "secret" }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lk := newFakeLiveKit()
			lk.rooms["r"] = agentOf("PA_1", "pod")
			r := overNetwork(t, lk)
			trial.Eventually(t, "the call is read", reads(r, "pod", 1))

			lk.set(func() { tc.breaks(lk) })
			deadline := time.Now().Add(3 * testSettings().MaxStaleness)
			for time.Now().Before(deadline) {
				if n, known := r.Reading("pod", time.Now()).Calls(); known && n == 0 {
					t.Fatal("the call reads as zero")
				}
				time.Sleep(10 * time.Millisecond)
			}
			if !unknown(r, "pod")() {
				t.Fatal("the call counts as known")
			}
			if !strings.Contains(r.Reading("pod", time.Now()).Reason(), "was last read at") {
				t.Errorf("the reason says: %s", r.Reading("pod", time.Now()).Reason())
			}

			lk.set(func() {
				lk.break_ = nil
				if tc.mends != nil {
					tc.mends(lk)
				}
			})
			trial.Eventually(t, "the call is read again", reads(r, "pod", 1))
		})
	}
}

// TestClosedRoomOfWhichNobodyAnswers ends calls where LiveKit asks a room's node for its
// participants: for a closed room it reports that nobody answered, and not that it is
// gone. The call still ends, and the other room is still read.
func TestClosedRoomOfWhichNobodyAnswers(t *testing.T) {
	lk := newFakeLiveKit()
	lk.byNodes = true
	lk.rooms["a"], lk.rooms["b"] = agentOf("PA_a", "pod-a"), agentOf("PA_b", "pod-b")
	inNoTime(t, lk, asGuard, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the calls are read", func() bool { return reads(r, "pod-a", 1)() && reads(r, "pod-b", 1)() })
		lk.set(func() { delete(lk.rooms, "a") })
		trial.Eventually(t, "the ended call is gone and the other is there", func() bool { return reads(r, "pod-a", 0)() && reads(r, "pod-b", 1)() })
		swept := func() time.Time {
			r.mu.RLock()
			defer r.mu.RUnlock()
			return r.sweptAt
		}
		gone := time.Now()
		trial.Eventually(t, "sweeps go on", func() bool { return swept().After(gone) })

		// All that is left is lost at once: such a loss is in doubt here as well.
		lk.set(func() {
			for _, room := range []string{"c", "d", "e"} {
				lk.rooms[room] = agentOf("PA_"+room, "pod-b")
			}
		})
		trial.Eventually(t, "more calls are read", reads(r, "pod-b", 4))
		lk.set(func() { clear(lk.rooms) })
		doubted := false
		trial.Eventually(t, "what was lost together is gone in the end", func() bool {
			doubted = doubted || unknown(r, "pod-b")()
			return reads(r, "pod-b", 0)()
		})
		if !doubted {
			t.Error("agents that were lost together were not in doubt")
		}
	})
}

// TestUnavailableFromAProxy: something in between reports that a room's participants are
// unavailable, while the room is missing from the list for a moment. Only LiveKit's own
// answer counts as an end.
func TestUnavailableFromAProxy(t *testing.T) {
	lk := newFakeLiveKit()
	lk.rooms["r"] = agentOf("PA_1", "pod")
	var between atomic.Bool
	proxy := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if between.Load() && strings.HasSuffix(req.URL.Path, "/ListParticipants") {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
			return
		}
		lk.ServeHTTP(w, req)
	})
	inNoTime(t, proxy, nil, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the call is read", reads(r, "pod", 1))
		lk.set(func() { lk.unlisted["r"] = true })
		between.Store(true)
		trial.Eventually(t, "the pod is unknown", func() bool {
			if reads(r, "pod", 0)() {
				t.Fatal("the call reads as zero")
			}
			return unknown(r, "pod")()
		})
		between.Store(false)
		trial.Eventually(t, "the call is read again", reads(r, "pod", 1))
	})
}

// TestLeftOutOfTheList: LiveKit omits a room from its list of rooms, as it sometimes
// does: the call stays known.
func TestLeftOutOfTheList(t *testing.T) {
	lk := newFakeLiveKit()
	lk.rooms["r"] = agentOf("PA_1", "pod")
	inNoTime(t, lk, nil, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the call is read", reads(r, "pod", 1))
		lk.set(func() { lk.unlisted["r"] = true })
		for until := time.Now().Add(3 * testSettings().MaxStaleness); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			if !reads(r, "pod", 1)() {
				t.Fatalf("the call is not read any more: %+v", r.Reading("pod", time.Now()))
			}
		}
	})
}

func TestRestartedEmpty(t *testing.T) {
	lk := newFakeLiveKit()
	for _, room := range []string{"a", "b", "c", "d"} {
		lk.rooms[room] = agentOf("PA_"+room, "pod")
	}
	settings := func(c *Config) { c.Resync, c.MaxStaleness = time.Second, 5*time.Second }
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the calls are read", reads(r, "pod", 4))

		lk.set(func() { clear(lk.rooms) })
		trial.Eventually(t, "the pod is unknown", func() bool {
			if reads(r, "pod", 0)() {
				t.Fatal("lost rooms read as zero at once")
			}
			return unknown(r, "pod")()
		})
		lk.set(func() { lk.rooms["a"] = agentOf("PA_new", "pod") })
		trial.Eventually(t, "the one agent that came back is read, the others are gone", reads(r, "pod", 1))
	})
}

// TestLostDuringAnOutage loses a single call while sweeps fail and webhooks still cause
// its room to be read.
func TestLostDuringAnOutage(t *testing.T) {
	lk := newFakeLiveKit()
	lk.rooms["r"] = agentOf("PA_1", "pod")
	settings := func(c *Config) { c.Resync, c.MaxStaleness = time.Second, 10*time.Second }
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the call is read", reads(r, "pod", 1))
		lk.set(func() { lk.noList = true })
		trial.Eventually(t, "a sweep has failed", func() bool {
			r.mu.RLock()
			defer r.mu.RUnlock()
			return r.lastErr != nil
		})
		lk.set(func() { delete(lk.rooms, "r") })
		for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			r.Heed(Event{Name: "track_published", Room: "r", Participant: "PA_1", Agent: true})
			if reads(r, "pod", 0)() {
				t.Fatal("a call lost in an outage reads as zero")
			}
		}
		lk.set(func() { lk.noList = false })
		trial.Eventually(t, "the outage is over, and so is the call", reads(r, "pod", 0))
	})
}

// TestListsHang is an outage in which LiveKit's list of rooms hangs, while those of their
// participants arrive, and are empty: agents that are missing from them are in doubt for
// as long as that lasts, however long a sweep hangs.
func TestListsHang(t *testing.T) {
	lk := newFakeLiveKit()
	lk.rooms["r"] = agentOf("PA_1", "pod")
	var hangs atomic.Bool
	between := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if hangs.Load() && strings.HasSuffix(req.URL.Path, "/ListRooms") {
			time.Sleep(3 * time.Second)
			http.Error(w, "timeout", http.StatusGatewayTimeout)
			return
		}
		lk.ServeHTTP(w, req)
	})
	settings := func(c *Config) { c.Resync, c.MaxStaleness, c.Timeout = time.Second, time.Hour, 10*time.Second }
	inNoTime(t, between, settings, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the call is read", reads(r, "pod", 1))
		hangs.Store(true)
		time.Sleep(4 * time.Second) // a sweep has failed, and the next hangs
		lk.set(func() { clear(lk.rooms) })
		for range 200 {
			r.Heed(Event{Name: "track_published", Room: "r", Participant: "PA_1", Agent: true})
			time.Sleep(100 * time.Millisecond)
			if reads(r, "pod", 0)() {
				t.Fatal("a call lost in an outage reads as zero")
			}
		}
		hangs.Store(false)
		trial.Eventually(t, "the outage is over, and so is the call", reads(r, "pod", 0))
	})
}

func TestCallsBeginAndEndWithinAResync(t *testing.T) {
	lk := newFakeLiveKit()
	var changed atomic.Int64
	settings := func(c *Config) {
		c.Resync, c.MaxStaleness = time.Second, 5*time.Second
		c.OnChange = func(uids []types.UID) { changed.Add(int64(len(uids))) }
	}
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the pod is known to be idle", reads(r, "pod", 0))
		for range 3 {
			for _, want := range []int{1, 0} {
				lk.set(func() {
					clear(lk.rooms)
					if want == 1 {
						lk.rooms["r"] = agentOf("PA_1", "pod")
					}
				})
				began := time.Now()
				trial.Eventually(t, "the change is read", reads(r, "pod", want))
				if took := time.Since(began); took > time.Second {
					t.Errorf("a change to %d took %s, more than a resync", want, took)
				}
			}
		}
		synctest.Wait() // OnChange is called after the change can be read
		if changed.Load() != 6 {
			t.Errorf("OnChange was called for %d changes, want 6", changed.Load())
		}
	})
}

func TestCredentials(t *testing.T) {
	boom := errors.New("no such Secret")
	lk := newFakeLiveKit()
	var missing atomic.Bool
	missing.Store(true)
	settings := func(c *Config) {
		given := c.Credentials
		c.Credentials = func(ctx context.Context) (livekit.Credentials, error) {
			if missing.Load() {
				return livekit.Credentials{}, boom
			}
			return given(ctx)
		}
	}
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		trial.Eventually(t, "the missing key is the reason", func() bool {
			return errors.Is(r.Fresh(time.Now()), boom)
		})
		if n := lk.requests.Load(); n != 0 {
			t.Errorf("LiveKit was asked %d times without a key", n)
		}
		missing.Store(false)
		trial.Eventually(t, "it is read once the key is there", reads(r, "pod", 0))
		missing.Store(true)
		r.mu.Lock()
		r.loadedAt = time.Now().Add(-2 * credentialsLife)
		r.mu.Unlock()
		for until := time.Now().Add(2 * testSettings().MaxStaleness); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			if err := r.Fresh(time.Now()); err != nil {
				t.Fatalf("a key that was read once is used until LiveKit refuses it: %v", err)
			}
		}
	})
}
