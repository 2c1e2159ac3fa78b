// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/callguard/callguard/pkg/witness/gate"
)

// Status serves GET /calls for callguard, /metrics, /healthz and /readyz. /healthz succeeds
// whenever the gate answers, because an unreachable LiveKit is no reason to restart the
// gate. /readyz succeeds while the pod can take calls. Use it only for a readiness probe:
// as a startup probe it would wait for the agent, which starts after the gate.
func (g *Gate) Status() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+gate.Path, g.calls)
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.cfg.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", g.readyz)
	return mux
}

func (g *Gate) calls(w http.ResponseWriter, r *http.Request) {
	a := g.answer(time.Now())
	if !inside(r.RemoteAddr) {
		for i := range a.Jobs {
			a.Jobs[i].Room, a.Jobs[i].Agent = "", ""
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(a) // the client may be gone
}

// answer returns everything that the gate knows about its pod.
func (g *Gate) answer(now time.Time) gate.Answer {
	a := g.book.answer(now)
	g.able.tell(&a)
	a.Load = g.load()
	a.LiveKit = g.upstream.String()
	return a
}

// load returns the highest load that a connected worker has reported; nil if none has.
func (g *Gate) load() (highest *float64) {
	g.sessions.Range(func(_, s any) bool {
		if load := s.(*session).load.Load(); load != nil && (highest == nil || *load > *highest) {
			highest = load
		}
		return true
	})
	return highest
}

func (g *Gate) readyz(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	if why, ready := g.able.ready(g.book.answer(now).Calls, now); !ready {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// inside reports whether a request comes from the pod itself, as kubectl exec and
// port-forward do.
func inside(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
