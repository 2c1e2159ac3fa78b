// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// holdFor is how long a worker's websocket is kept while LiveKit is away. LiveKit Agents
// try 16 times in a row to open one, for about two minutes in all, and then never again; a
// websocket that opens resets that count. It is also the longest of their own pauses, so
// that LiveKit is dialed no more often than without a gate.
const holdFor = 10 * time.Second

// outage is how long LiveKit has been away.
type outage struct {
	mu    sync.Mutex
	since time.Time
	over  chan struct{} // closed when LiveKit is back
}

// begin returns since when LiveKit is away, and a channel that is closed when it is back.
func (o *outage) begin(now time.Time) (since time.Time, over <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over == nil {
		o.since, o.over = now, make(chan struct{})
	}
	return o.since, o.over
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over != nil {
		close(o.over)
		o.over = nil
	}
}

// hold opens a worker's websocket while LiveKit is away, keeps it for a while, and closes
// it with "try again later", so that the worker keeps trying. The worker sends its
// registration on it, and repeats that on the next one. It does not count as registered.
// When LiveKit is back, the websocket is closed at once.
func (g *Gate) hold(w http.ResponseWriter, r *http.Request) {
	agent, err := g.upgrader.Upgrade(w, r, nil)
	if err != nil { // the worker has its answer
		g.cfg.Log.Warn("A worker's websocket could not be opened", "err", cause(err))
		return
	}
	defer agent.Close() //nolint:errcheck // it has ended
	g.counts.connections.WithLabelValues("held").Inc()
	agent.SetReadLimit(maxFrame)
	_ = agent.SetReadDeadline(time.Now().Add(2*g.patience + writeTimeout)) // fails only if the read does
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, _, err := agent.NextReader(); err != nil {
				return
			}
		}
	}()
	g.waitForLiveKit(gone) //nolint:contextcheck // the request's context ends with the connection that the websocket took over
	_ = agent.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseTryAgainLater, "LiveKit cannot be reached; try again"), time.Now().Add(writeTimeout)) // it may be gone
	select {
	case <-gone:
	case <-time.After(time.Second): // it does not close its side
	}
}

// waitForLiveKit returns when LiveKit answers again, when the worker has disconnected, when
// the gate closes, or after g.patience.
func (g *Gate) waitForLiveKit(gone <-chan struct{}) {
	since, over := g.outage.begin(time.Now())
	last := time.NewTimer(g.patience*9/10 + rand.N(g.patience/5))
	defer last.Stop()
	look := time.NewTimer(g.pause(since))
	defer look.Stop()
	for {
		select {
		case <-gone:
			return
		case <-g.closing:
			return
		case <-over:
			return
		case <-last.C:
			return
		case <-look.C:
			if g.answers() {
				return
			}
			look.Reset(g.pause(since))
		}
	}
}

// pause returns after how long LiveKit is tried again: a tenth of the time for which it has
// been away, within bounds. So a restart is noticed at once, and a server that returns
// after an hour is not flooded.
func (g *Gate) pause(since time.Time) time.Duration {
	most := g.patience
	pause := min(max(time.Since(since)/10, most/10), most)
	return pause*9/10 + rand.N(pause/5+1)
}

// answers reports whether LiveKit, or whatever is in its place, gives an answer that does
// not mean that LiveKit is away.
func (g *Gate) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.upstream.String(), nil)
	if err != nil {
		return false
	}
	resp, err := g.transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return !away(resp.StatusCode)
}

// away reports whether a status is that of a proxy whose LiveKit is down or overloaded.
func away(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusTooManyRequests
}
