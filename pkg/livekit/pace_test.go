// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func contextThatEnds(t *testing.T, after time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(after, cancel)
	return ctx, cancel
}

// limited is a server that accepts this many requests in any 60 seconds and answers 429
// to others, as LiveKit Cloud does above its 1,000, with Retry-After: 20.
type limited struct {
	http.Handler

	takes   int
	after   string
	sent    []time.Time
	most    int // in any 60 seconds
	refused int
	early   int // requests before the end of Retry-After
	until   time.Time
}

func (l *limited) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	if now.Before(l.until) {
		l.early++
	}
	l.sent = append(l.sent, now)
	for now.Sub(l.sent[0]) >= time.Minute {
		l.sent = l.sent[1:]
	}
	l.most = max(l.most, len(l.sent))
	if len(l.sent) > l.takes {
		l.refused++
		w.Header().Set("Retry-After", l.after)
		w.WriteHeader(http.StatusTooManyRequests)
		if seconds, err := strconv.Atoi(l.after); err == nil {
			l.until = now.Add(time.Duration(seconds) * time.Second)
		}
		return
	}
	l.Handler.ServeHTTP(w, r)
}

// TestNoMinuteHasMoreThanTheLimit sends requests as fast as the pace allows, for an hour.
func TestNoMinuteHasMoreThanTheLimit(t *testing.T) {
	for _, limit := range []int{LeastLimit, 60, 300, CloudLimit} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &limited{Handler: newFake(), takes: limit, after: "20"}
				c := clientOf(t, server, func(c *Config) { c.Pace, c.Patience = NewPace(limit), time.Hour })
				sent := 0
				for end := time.Now().Add(time.Hour); time.Now().Before(end); sent++ {
					if _, err := c.Rooms(t.Context()); err != nil {
						t.Fatal(err)
					}
					if sent%(20*limit) == 0 {
						time.Sleep(2 * time.Minute) // after a pause it may be fast again
					}
				}
				if server.most > limit || server.refused > 0 {
					t.Errorf("%d requests in a minute", server.most)
				}
				if sent < 60*limit/2 {
					t.Errorf("%d requests in an hour are too few", sent)
				}
			})
		})
	}
}

// TestTooManyRequests: after a 429 nothing is sent for the given time, and fewer requests
// than before.
func TestTooManyRequests(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	cases := map[string]struct {
		reason      string
		status      int
		after       func() string
		least, most time.Duration
		ahead       time.Duration // its clock
	}{
		"Seconds":       {reason: "As LiveKit Cloud says it.", status: 429, after: func() string { return "20" }, least: 20 * time.Second, most: 20 * time.Second},
		"Date":          {reason: "As a proxy may say it.", status: 429, after: func() string { return date(30 * time.Second) }, least: 30 * time.Second, most: 31 * time.Second},
		"Silent":        {reason: "It does not say how long.", status: 429, after: func() string { return "" }, least: told, most: told},
		"Rubbish":       {reason: "Nor here.", status: 429, after: func() string { return "-1" }, least: told, most: told},
		"Past":          {reason: "It is over.", status: 429, after: func() string { return date(-time.Hour) }, least: time.Second, most: time.Second},
		"ForEver":       {reason: "It would be asked never again.", status: 429, after: func() string { return "9000000000" }, least: toldMost, most: toldMost},
		"Unavailable":   {reason: "503 with a time is one, too.", status: 503, after: func() string { return "20" }, least: 20 * time.Second, most: 20 * time.Second},
		"ZeroIsASecond": {reason: "No storm.", status: 429, after: func() string { return "0" }, least: time.Second, most: time.Second},
		"ClockAhead":    {reason: "It counts by its own clock.", status: 429, after: func() string { return date(time.Hour + 30*time.Second) }, least: 30 * time.Second, most: 32 * time.Second, ahead: time.Hour},
		"ClockBehind":   {reason: "So it does here.", status: 429, after: func() string { return date(30*time.Second - time.Hour) }, least: 30 * time.Second, most: 32 * time.Second, ahead: -time.Hour},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lk, asked := newFake(), 0
				lk.instead = func(w http.ResponseWriter, _ *http.Request) bool {
					if asked++; asked > 1 {
						return false
					}
					if after := tc.after(); after != "" {
						w.Header().Set("Retry-After", after)
					}
					if tc.ahead != 0 {
						w.Header().Set("Date", date(tc.ahead))
					}
					w.WriteHeader(tc.status)
					return true
				}
				began := time.Now()
				c := clientOf(t, lk, nil)
				_, err := c.Rooms(t.Context())
				tooMany, ok := errors.AsType[*TooMany](err)
				if !ok || !tooMany.Told {
					t.Fatalf("%s %v", tc.reason, err)
				}
				if pause := tooMany.Until.Sub(began); pause < tc.least || pause > tc.most {
					t.Errorf("%s it is asked again after %s, want %s to %s", tc.reason, pause, tc.least, tc.most)
				}
				time.Sleep(time.Until(tooMany.Until) - time.Millisecond)
				if _, err := c.Rooms(t.Context()); err == nil || asked != 1 {
					t.Errorf("%s it was asked %d times before that: %v", tc.reason, asked, err)
				}
				time.Sleep(10 * time.Second) // the learned pace leaves some seconds between two requests
				if _, err := c.Rooms(t.Context()); err != nil {
					t.Errorf("%s after that: %v", tc.reason, err)
				}
			})
		})
	}
}

// TestLearnsTheLimit: a server that accepts less than the limit, or has an unknown one,
// refuses a few times and then no longer.
func TestLearnsTheLimit(t *testing.T) {
	for name, limit := range map[string]int{"NoLimit": 0, "PartOfCloudLimit": 300} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &limited{Handler: newFake(), takes: 60, after: "20"}
				c := clientOf(t, server, func(c *Config) { c.Pace, c.Patience = NewPace(limit), 5*time.Second })
				for end := time.Now().Add(50 * time.Minute); time.Now().Before(end); {
					if _, err := c.Rooms(t.Context()); err != nil {
						time.Sleep(time.Second)
					}
				}
				if server.refused > 3 || server.early > 0 {
					t.Errorf("%d requests were refused, %d of them before it might be asked again", server.refused, server.early)
				}
				if got := c.Pace().Limit(time.Now()); got < 30 || got > 60 {
					t.Errorf("it learned %d a minute", got)
				}
			})
		})
	}
}

func TestLimit(t *testing.T) {
	cases := map[string]struct {
		reason string
		set    int
		url    string
		want   int
	}{
		"Cloud":  {"LiveKit Cloud has a limit.", 0, "wss://voice-1a2b.livekit.cloud", CloudLimit},
		"Shouts": {"Letter case is nothing.", 0, " WSS://Voice.LiveKit.Cloud/\n", CloudLimit},
		"Own":    {"LiveKit's own server has none.", 0, "ws://livekit:7880", 0},
		"Else":   {"Nor another's.", 0, "wss://livekit.cloud.example.com", 0},
		"Set":    {"What is set holds.", 60, "wss://voice.livekit.cloud", 60},
	}
	for name, tc := range cases {
		if got := Limit(tc.set, tc.url); got != tc.want {
			t.Errorf("%s: %s got %d, want %d", name, tc.reason, got, tc.want)
		}
	}
}

// TestReplicasShareTheLimit: replicas come and go and send as fast as they may, with
// pauses after which they may be fast. No minute exceeds the limit for all of them.
func TestReplicasShareTheLimit(t *testing.T) {
	const limit, phase = 600, 10 * time.Minute
	phases := []int{1, 2, 3, 1, 3, 2, 1}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []time.Time
		most, all := 0, 0
		enter := func() {
			mu.Lock()
			defer mu.Unlock()
			now := time.Now()
			sent = append(sent, now)
			for now.Sub(sent[0]) >= time.Minute {
				sent = sent[1:]
			}
			most, all = max(most, len(sent)), all+1
		}
		var alive atomic.Int64
		var running sync.WaitGroup
		var stops []context.CancelFunc
		for _, n := range phases {
			for len(stops) > n {
				stops[len(stops)-1]()
				stops = stops[:len(stops)-1]
				synctest.Wait()
			}
			alive.Store(int64(n))
			for len(stops) < n {
				ctx, stop := context.WithCancel(t.Context())
				stops = append(stops, stop)
				p := NewSharedPace(limit, func() int { return int(alive.Load()) })
				running.Go(func() {
					for i := 1; p.wait(ctx, time.Hour) == nil; i++ {
						enter()
						if i%1000 == 0 {
							time.Sleep(time.Minute)
						}
					}
				})
			}
			time.Sleep(phase)
		}
		for _, stop := range stops {
			stop()
		}
		running.Wait()
		if least := len(phases) * int(phase/time.Minute) * limit / 2; most > limit || all < least {
			t.Errorf("up to %d requests in a minute, %d in all; want no more than %d, and at least %d", most, all, limit, least)
		}
	})
}

// TestShareOfMany: a share is never less than one request, and without a limit there are
// no shares.
func TestShareOfMany(t *testing.T) {
	for _, tc := range []struct{ limit, replicas, want int }{{600, 2, 300}, {600, 7, 85}, {24, 100, 1}, {0, 2, 0}, {600, 0, 600}} {
		if got := NewSharedPace(tc.limit, func() int { return tc.replicas }).Limit(time.Now()); got != tc.want {
			t.Errorf("one of %d replicas has %d of %d, want %d", tc.replicas, got, tc.limit, tc.want)
		}
	}
}
