// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Path is the path of the verdict.
const Path = "/healthz/realtime"

// Answer is the body of GET /healthz/realtime. It is part of the public API. The status is
// 200 if Ready, otherwise 503.
type Answer struct {
	Ready  bool   `json:"ready"`
	Class  Class  `json:"class"`
	Reason Reason `json:"reason,omitempty"`
	Why    string `json:"why"`

	// Held reports that it is ready only because of the calls that the pod holds, or may hold.
	Held bool `json:"held,omitempty"`
	// Calls is the number of the pod's calls; absent if that is unknown or there is no
	// call-gate.
	Calls *int `json:"calls,omitempty"`

	// Age is how long ago the latest probe ended; absent before the first.
	Age *float64 `json:"age_seconds,omitempty"`
	// Failures is how many probes failed since the latest success.
	Failures int `json:"failures,omitempty"`

	Model string `json:"model"`
	// SessionModel is the model that the latest session had.
	SessionModel string `json:"session_model,omitempty"`
	// Warnings need attention, but do not make the pod unready.
	Warnings []string `json:"warnings,omitempty"`
}

// answer returns the report in the form of an Answer.
func (p *Prober) answer() Answer {
	r := p.Report()
	a := Answer{
		Ready: r.Verdict.Ready, Class: r.Verdict.Class, Reason: r.Verdict.Reason, Why: r.Verdict.Why,
		Held: r.Verdict.Held, Failures: r.State.Failures, Model: p.cfg.Model, SessionModel: r.SessionModel,
	}
	if r.Calls != nil {
		if n, known := r.Calls.Calls(); known {
			a.Calls = &n
		}
	}
	if !r.State.At.IsZero() {
		age := r.At.Sub(r.State.At).Seconds()
		a.Age = &age
	}
	if r.Mismatch {
		a.Warnings = append(a.Warnings, "the session uses a different model than requested")
	}
	if r.Unseen {
		a.Warnings = append(a.Warnings, "the API key has no access to the model; sessions open, but their responses may fail")
	}
	if !r.Shutdown.IsZero() {
		a.Warnings = append(a.Warnings, "the model will be shut down on "+r.Shutdown.Format(time.DateOnly)+"; choose another")
	}
	return a
}

// Handler serves GET /healthz/realtime for a readiness probe; /healthz and /livez, which
// succeed whenever the process answers, because a problem of the Realtime API is no reason
// to restart anything; and /metrics.
func (p *Prober) Handler() http.Handler {
	well := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") }
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, _ *http.Request) {
		a := p.answer()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !a.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(a) // the client may be gone
	})
	mux.HandleFunc("GET /healthz", well)
	mux.HandleFunc("GET /livez", well)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.cfg.Registry, promhttp.HandlerOpts{}))
	return mux
}
