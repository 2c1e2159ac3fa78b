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
	// CloudLimit is how many requests a minute LiveKit Cloud takes of all who ask for a
	// project.
	CloudLimit = 1_000
	// LeastLimit is the least limit that a process works with, and that can be learned: a
	// list of the rooms every 15 s, and as much again for the rooms.
	LeastLimit = 12

	window = 60 // seconds

	// told is how long nothing is asked after a 429 that does not say how long; it
	// doubles up to toldMost while 429 follows 429. toldMost also bounds what LiveKit
	// says: who answers with a year would be asked never again.
	told     = 10 * time.Second
	toldMost = 10 * time.Minute
	// learnedFor is how long the limit that a 429 taught is kept to.
	learnedFor = time.Hour
)

// Limit is the number of requests a minute to the project at a URL: what is set, or,
// for 0, CloudLimit for LiveKit Cloud and none for LiveKit's own server, which has
// none.
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

// Pace keeps the requests of a process to one project within its limit: within any 60
// seconds there are no more than so many. After a 429 nothing is sent for as long as
// that says, and the limit is lower for an hour than what was sent before it. Its
// methods are safe for concurrent use.
type Pace struct {
	limit    int        // of requests a minute, of all replicas; 0 is none
	replicas func() int // that share it, as of now

	mu          sync.Mutex
	learned     int // a lower one, until learnedTill
	learnedTill time.Time
	tokens      float64
	filled      time.Time // when tokens was right
	pause       time.Time // nothing is sent before
	refusals    int       // one after another
	sent        [window]int
	second      int64 // the latest of sent
}

// NewPace returns a Pace of so many requests a minute; 0 is no limit until LiveKit
// answers 429.
func NewPace(perMinute int) *Pace { return NewSharedPace(perMinute, func() int { return 1 }) }

// NewSharedPace returns the Pace of one of several replicas, which share a limit of so many
// requests a minute. How many they are may change at any time; replicas returns it at
// once. A replica that is not alone begins without a burst, for the others may just have
// sent all that the limit allowed them without it.
func NewSharedPace(perMinute int, replicas func() int) *Pace {
	return &Pace{limit: perMinute, replicas: replicas, tokens: math.Inf(1)}
}

// Limit returns the limit of requests a minute as of now, of this process; 0 is none.
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

// A quarter of the limit may be sent at once; what comes after it comes at three
// quarters of the limit, so that no minute has more than the limit.
func burst(limit int) float64     { return math.Max(1, math.Floor(float64(limit)/4)) }
func perSecond(limit int) float64 { return math.Max(1, float64(limit)-burst(limit)) / window }

// Evenly is how long so many requests take, sent evenly within the limit; 0 without one.
func (p *Pace) Evenly(requests int, now time.Time) time.Duration {
	limit := p.Limit(now)
	if limit == 0 {
		return 0
	}
	return time.Duration(float64(requests) / perSecond(limit) * float64(time.Second))
}

// Rested is how long so many requests take, sent after a time in which none were; 0 without
// a limit.
func (p *Pace) Rested(requests int, now time.Time) time.Duration {
	return p.Evenly(max(0, requests-int(burst(p.Limit(now)))), now)
}

// Within is how many requests the limit allows within d from now on, and how many of
// them evenly. It is for a Pace with a limit.
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

// take takes one request of the limit, or says when there is one to take.
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

// wait takes one request of the limit. It waits for it no longer than patience.
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

// refused enters that LiveKit answered 429, or 503 with a time, and returns when it
// may be asked again.
func (p *Pace) refused(header http.Header, learn bool, now time.Time) *TooMany {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause, ok := retryAfter(header, now)
	if !ok {
		pause = told << min(p.refusals, 6)
	}
	p.refusals++
	until := now.Add(min(max(pause, time.Second), toldMost))
	if learn && !now.Before(p.pause) { // once for all that were under way
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

// answered enters that LiveKit did not refuse.
func (p *Pace) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals = 0
}

// roll makes room for the seconds since the latest.
func (p *Pace) roll(now time.Time) {
	second := now.Unix()
	for s := max(p.second+1, second-window+1); s <= second; s++ {
		p.sent[s%window] = 0
	}
	p.second = max(p.second, second)
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(header http.Header, now time.Time) (time.Duration, bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, int64(toldMost/time.Second))) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		if said, err := http.ParseTime(header.Get("Date")); err == nil {
			now = said // by its own clock
		}
		return date.Add(time.Second).Sub(now), true // dates have no fractions of a second
	}
	return 0, false
}
