// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// CloudLimit is how many requests a minute LiveKit Cloud accepts for a project, from all
	// clients together.
	CloudLimit = 1_000
	// LeastLimit is the lowest limit with which a process works, and the lowest that is
	// learned from refusals. It allows for a list of the rooms every 15 s, and as many
	// requests again for the rooms.
	LeastLimit = 12

	window = 60 // seconds

	// told is how long nothing is sent after a 429 without Retry-After; it doubles up to
	// toldMost while 429 follows 429. toldMost also limits Retry-After, because after an
	// answer of a year nothing would be sent ever again.
	told     = 10 * time.Second
	toldMost = 10 * time.Minute
	// learnedFor is how long a limit that was learned from a 429 applies.
	learnedFor = time.Hour
)

// Limit returns the number of requests a minute to the project at a URL: the set one or,
// for 0, CloudLimit for LiveKit Cloud and no limit for other servers.
func Limit(set int, projectURL string) int {
	if set > 0 {
		return set
	}
	if u, err := url.Parse(strings.TrimSpace(projectURL)); err == nil {
		host := strings.ToLower(u.Hostname())
		if host == "livekit.cloud" || strings.HasSuffix(host, ".livekit.cloud") {
			return CloudLimit
		}
	}
	return 0
}

// Pace keeps the requests of a process to one project within its limit in any 60 seconds.
// After a 429 nothing is sent for the time that the answer names, and for an hour the limit
// is lower than the number that was sent before it. Its methods are safe for concurrent
// use.
type Pace struct {
	limit    int        // requests a minute, for all replicas; 0 means no limit
	replicas func() int // number of replicas that share it now

	mu          sync.Mutex
	learned     int // a lower limit, until learnedTill
	learnedTill time.Time
	tokens      float64
	filled      time.Time // when tokens was computed
	pause       time.Time // nothing is sent before that
	refusals    int       // in a row
	sent        [window]int
	second      int64 // the latest second in sent
}

// NewPace returns a Pace with a limit of requests a minute; 0 means no limit until LiveKit
// answers 429.
func NewPace(perMinute int) *Pace { return NewSharedPace(perMinute, func() int { return 1 }) }

// NewSharedPace returns the Pace of one of several replicas that share a limit of requests
// a minute. Their number may change at any time; replicas returns it without waiting. A
// replica that is not alone begins without a burst, because the others may just have sent
// all that the limit allowed before it came.
func NewSharedPace(perMinute int, replicas func() int) *Pace {
	return &Pace{limit: perMinute, replicas: replicas, tokens: math.Inf(1)}
}

// Limit returns the present limit of requests a minute for this process; 0 means no limit.
func (p *Pace) Limit(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limitAt(now)
}

func (p *Pace) limitAt(now time.Time) int {
	own := p.limit
	if own > 0 {
		own = max(1, own/max(1, p.replicas()))
	}
	if p.learned > 0 && now.Before(p.learnedTill) && (own == 0 || p.learned < own) {
		return p.learned
	}
	return own
}

// A quarter of the limit may be sent at once. Further requests follow at the rate of three
// quarters of the limit, so that no minute has more than the limit.
func burst(limit int) float64     { return math.Max(1, math.Floor(float64(limit)/4)) }
func perSecond(limit int) float64 { return math.Max(1, float64(limit)-burst(limit)) / window }

// Evenly returns how long a number of requests takes if they are sent evenly within the
// limit; 0 without a limit.
func (p *Pace) Evenly(requests int, now time.Time) time.Duration {
	limit := p.Limit(now)
	if limit == 0 {
		return 0
	}
	return time.Duration(float64(requests) / perSecond(limit) * float64(time.Second))
}

// Rested returns how long a number of requests takes after a time without requests; 0
// without a limit.
func (p *Pace) Rested(requests int, now time.Time) time.Duration {
	return p.Evenly(max(0, requests-int(burst(p.Limit(now)))), now)
}

// Within returns how many requests the limit allows within d from now on, and how many if
// they are sent evenly. The Pace must have a limit.
func (p *Pace) Within(d time.Duration, now time.Time) (most, evenly int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.limitAt(now)
	if limit == 0 {
		return math.MaxInt, math.MaxInt
	}
	p.fill(limit, now)
	even := perSecond(limit) * d.Seconds()
	return int(math.Max(p.tokens, even)), int(even)
}

func (p *Pace) fill(limit int, now time.Time) {
	if p.filled.IsZero() && p.limit > 0 && p.replicas() > 1 {
		p.tokens, p.filled = 0, now
	}
	p.tokens = math.Min(burst(limit), p.tokens+now.Sub(p.filled).Seconds()*perSecond(limit))
	p.filled = now
}

// take takes one request of the limit, or returns when the next one is available.
func (p *Pace) take(now time.Time) *TooMany {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.pause) {
		return &TooMany{Until: p.pause, Told: true}
	}
	if limit := p.limitAt(now); limit > 0 {
		p.fill(limit, now)
		if p.tokens < 1 {
			wait := time.Duration((1 - p.tokens) / perSecond(limit) * float64(time.Second))
			return &TooMany{Until: now.Add(wait + time.Millisecond)}
		}
		p.tokens--
	}
	p.roll(now)
	p.sent[p.second%window]++
	return nil
}

// wait takes one request of the limit, and waits for it no longer than patience.
func (p *Pace) wait(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		now := time.Now()
		tooMany := p.take(now)
		if tooMany == nil {
			return nil
		}
		if tooMany.Until.After(deadline) {
			return tooMany
		}
		timer := time.NewTimer(tooMany.Until.Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// refused records that LiveKit answered 429, or 503 with a time, and returns when the next
// request may be sent.
func (p *Pace) refused(header http.Header, learn bool, now time.Time) *TooMany {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause, ok := retryAfter(header, now)
	if !ok {
		pause = told << min(p.refusals, 6)
	}
	p.refusals++
	until := now.Add(min(max(pause, time.Second), toldMost))
	if learn && !now.Before(p.pause) { // once for all concurrent requests
		p.roll(now)
		asked := 0
		for _, n := range p.sent {
			asked += n
		}
		learned := max(LeastLimit, asked*3/4)
		switch limit := p.limitAt(now); {
		case limit == 0 || learned < limit:
			p.learned = learned
		case !now.Before(p.learnedTill):
			p.learned = 0
		}
		p.learnedTill = now.Add(learnedFor)
		p.tokens, p.filled = 0, now
	}
	if until.After(p.pause) {
		p.pause = until
	}
	return &TooMany{Until: p.pause, Told: true}
}

// answered records that LiveKit did not refuse.
func (p *Pace) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals = 0
}

// roll clears the counters of the seconds since the latest.
func (p *Pace) roll(now time.Time) {
	second := now.Unix()
	for s := max(p.second+1, second-window+1); s <= second; s++ {
		p.sent[s%window] = 0
	}
	p.second = max(p.second, second)
}

// retryAfter reads the header Retry-After: seconds, or a date.
func retryAfter(header http.Header, now time.Time) (time.Duration, bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, int64(toldMost/time.Second))) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		if said, err := http.ParseTime(header.Get("Date")); err == nil {
			now = said // by the server's own clock
		}
		return date.Add(time.Second).Sub(now), true // dates have no fractions of a second
	}
	return 0, false
}
