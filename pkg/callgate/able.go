// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/witness/gate"
)

// readyFor is how long the pod stays ready without a worker. A worker that lost its
// websocket is back within seconds.
const readyFor = 30 * time.Second

// able knows whether a worker is registered with LiveKit, and if not, why. The evidence is
// LiveKit's answer to the registration, not what the worker sends. It does no I/O; it has a
// lock.
type able struct {
	mu       sync.Mutex
	upstream string
	sessions map[uint64]bool // sessions whose worker LiveKit has registered
	since    time.Time       // since when the present state holds
	left     time.Time       // when the last worker disconnected; zero if none ever registered
	why      call.Ability    // the latest reason while none is registered
	status   int             // HTTP status of LiveKit's refusal

	refusals *prometheus.CounterVec
}

func newAble(upstream string, began time.Time, reg prometheus.Registerer) *able {
	a := &able{
		upstream: upstream, sessions: map[uint64]bool{}, since: began, why: call.NoWorker,
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "callguard", Subsystem: "gate", Name: "refused_registrations_total",
			Help: "Workers that connected but could not be registered with LiveKit, by reason (refused: LiveKit refuses the key, not-livekit: the server accepts no workers, unreachable).",
		}, []string{"why"}),
	}
	for _, why := range []call.Ability{call.Refused, call.NotLiveKit, call.Unreachable} {
		a.refusals.WithLabelValues(string(why))
	}
	reg.MustRegister(a.refusals, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "callguard", Subsystem: "gate", Name: "registered_workers",
		Help: "Workers of the pod that LiveKit has registered: without one no call can come.",
	}, func() float64 { a.mu.Lock(); defer a.mu.Unlock(); return float64(len(a.sessions)) }))
	return a
}

// registers records that LiveKit has answered a worker's registration.
func (a *able) registers(session uint64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.sessions) == 0 {
		a.since = now
	}
	a.sessions[session] = true
}

// loses records that a worker's websocket is gone.
func (a *able) loses(session uint64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.sessions[session] {
		return
	}
	delete(a.sessions, session)
	if len(a.sessions) == 0 {
		a.since, a.left, a.why = now, now, call.Gone
	}
}

// fails records why a worker that connected is not registered. It has no effect while
// another worker is registered.
func (a *able) fails(why call.Ability, status int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if why != call.Registering {
		a.refusals.WithLabelValues(string(why)).Inc()
	}
	if len(a.sessions) > 0 {
		return
	}
	if a.why != why {
		a.since = now
	}
	a.why, a.status = why, status
}

// ready reports whether the pod is ready, or why not. A pod with calls stays ready, because
// a LiveKit that is away for a moment is no reason to change that.
func (a *able) ready(calls int, now time.Time) (why string, ready bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.sessions) > 0 || calls > 0 || !a.left.IsZero() && now.Sub(a.left) < readyFor {
		return "", true
	}
	return a.sentenceLocked(), false
}

// tell writes into an answer whether the pod can take calls.
func (a *able) tell(answer *gate.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	is := len(a.sessions) > 0
	answer.Able, answer.AbleSince, answer.Registered = &is, a.since, len(a.sessions)
	if !is {
		answer.Unable, answer.UnableWhy = a.why, a.sentenceLocked()
	}
}

func (a *able) sentenceLocked() string {
	switch a.why {
	case call.NoWorker:
		return "no worker has ever connected to call-gate; set the agent's LIVEKIT_URL to call-gate's address; with HTTPS_PROXY or HTTP_PROXY set, LiveKit Agents for Python connects through the proxy whatever NO_PROXY says, unless it is given http_proxy=None"
	case call.Registering:
		return "a worker has connected, and LiveKit has not registered it"
	case call.Refused:
		return fmt.Sprintf("LiveKit at %s refuses the worker's key (%d); check the agent's LIVEKIT_API_KEY and LIVEKIT_API_SECRET", a.upstream, a.status)
	case call.NotLiveKit:
		return fmt.Sprintf("what answers at %s accepts no workers (%d %s); check LIVEKIT_URL of call-gate", a.upstream, a.status, http.StatusText(a.status))
	case call.Unreachable:
		return fmt.Sprintf("LiveKit at %s cannot be reached; check that it runs, and the gate's LIVEKIT_URL", a.upstream)
	default:
		return "the last worker went at " + a.left.UTC().Format(time.RFC3339) + ", and none has come back"
	}
}
