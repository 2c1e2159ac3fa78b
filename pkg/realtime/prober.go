// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/crowd"
	"github.com/callguard/callguard/pkg/trust"
)

// Config is what a Prober needs.
type Config struct {
	// BaseURL is the URL of the API, such as wss://api.openai.com/v1 or, for a resource of
	// Azure OpenAI, https://RESOURCE.openai.azure.com.
	BaseURL string
	// Model is requested for each session.
	Model string
	// Deployment is requested instead on Azure OpenAI; if it is empty, one with the name of
	// the model.
	Deployment string
	// APIVersion is the version of Azure's preview API; may be empty.
	APIVersion string
	// KeyFile is the file with the key; it is read at each probe.
	KeyFile string
	// AuthHeader is the header with the key; the default is Bearer.
	AuthHeader AuthHeader
	// Organization and Project are those of the sessions; may be empty.
	Organization, Project string
	// CA has certificates to trust in addition to the system's, in PEM; may be empty.
	CA []byte

	// Interval is the pause between probes, Timeout the time limit of one.
	Interval, Timeout time.Duration
	// Rules are how failures are tolerated. StaleAfter defaults to three intervals and a
	// timeout.
	Rules Rules

	// Calls returns the pod's calls, from memory; nil if there is no call-gate.
	Calls func(now time.Time) call.Reading

	Registry *prometheus.Registry
	Log      *slog.Logger
}

// Prober knows whether the Realtime API accepts sessions. Its methods are safe for
// concurrent use.
type Prober struct {
	cfg     Config
	line    *line
	clock   clock.Clock
	chance  func() float64
	secrets secrets
	counts  *Metrics

	mu     sync.Mutex
	state  State
	model  string // the model of the latest session
	about  about
	looked time.Time // when about was requested

	said Verdict // what was last logged; used only by the loop
}

// New checks cfg. It connects to nothing and reads nothing before Run.
func New(cfg Config) (*Prober, error) {
	to, err := newTarget(cfg)
	if err != nil {
		return nil, err
	}
	trust, err := trust.Besides(cfg.CA)
	if err != nil {
		return nil, err
	}
	if cfg.Model == "" || cfg.KeyFile == "" || cfg.Interval <= 0 || cfg.Timeout <= 0 {
		return nil, fmt.Errorf("a prober needs a model, a key file, an interval and a timeout; got %q, %q, %s and %s",
			cfg.Model, cfg.KeyFile, cfg.Interval, cfg.Timeout)
	}
	if cfg.Rules.StaleAfter == 0 {
		cfg.Rules.StaleAfter = 3*cfg.Interval + cfg.Timeout
	}
	p := &Prober{
		cfg:     cfg,
		line:    &line{target: to, trust: trust, proxy: http.ProxyFromEnvironment},
		clock:   clock.RealClock{},
		chance:  rand.Float64,
		secrets: newSecrets(),
		counts:  NewMetrics(cfg.Registry),
	}
	cfg.Registry.MustRegister(newCollector(p))
	return p, nil
}

// Run probes, and serves a listener, until ctx is done. It closes the listener.
func (p *Prober) Run(ctx context.Context, l net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return crowd.Serve(ctx, l, p.Handler(), maxAskers, p.cfg.Log) })
	group.Go(func() error { p.loop(ctx); return nil })
	return group.Wait()
}

// loop probes. Nothing else does, so there is never more than one probe at a time.
func (p *Prober) loop(ctx context.Context) {
	for {
		state := p.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		timer := p.clock.NewTimer(pause(state, p.cfg.Interval, p.chance()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

func (p *Prober) probe(ctx context.Context) State {
	began := p.clock.Now()
	key, err := readKey(p.cfg.KeyFile)
	var o Outcome
	if err != nil {
		o = failed(KeyFile, "%v", err)
	} else {
		bound, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
		o = p.line.attempt(bound, key)
		cancel()
	}
	if ctx.Err() != nil { // the end of the attempt is not the API's fault
		return State{}
	}
	o.What, o.SessionModel = p.secrets.clean(o.What, key), p.secrets.clean(o.SessionModel, key)
	now := p.clock.Now()
	p.counts.probed(o, now.Sub(began))
	p.mu.Lock()
	p.state = p.state.After(o, now)
	state, was := p.state, p.model
	if o.Class() == OK {
		p.model = o.SessionModel
	}
	p.mu.Unlock()
	p.tell(was, o)
	if o.Class() == OK {
		p.learn(ctx, key, now)
	}
	return state
}

// tell logs what has changed.
func (p *Prober) tell(was string, o Outcome) {
	v := p.Report().Verdict
	if was := p.said; v.Class != was.Class || v.Reason != was.Reason || v.Ready != was.Ready || v.Held != was.Held {
		log := p.cfg.Log.With("class", v.Class, "reason", v.Reason, "ready", v.Ready, "why", v.Why)
		switch {
		case v.Class == OK:
			log.Info("The Realtime API accepts sessions")
		case v.Ready:
			log.Warn("The Realtime API accepts no session; the pod stays ready")
		default:
			log.Error("The Realtime API accepts no session; the pod is not ready")
		}
		p.said = v
	}
	if m := o.SessionModel; o.Class() == OK && m != was && p.mismatch(m) {
		p.cfg.Log.Warn("A session uses a different model than requested", "asked", p.cfg.Model, "got", m)
	}
}

// mismatch reports whether a session has another model than the requested one. For a
// deployment that is not known here.
func (p *Prober) mismatch(model string) bool {
	return model != "" && !p.line.deployment && !sameModel(p.cfg.Model, model)
}

// learn looks the model up from time to time. Azure lists models, but not deployments.
func (p *Prober) learn(ctx context.Context, key string, now time.Time) {
	if p.line.deployment {
		return
	}
	p.mu.Lock()
	due := p.looked.IsZero() || now.Sub(p.looked) >= aboutEvery
	p.mu.Unlock()
	if !due {
		return
	}
	bound, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	found, err := p.line.look(bound, key, p.cfg.Model)
	p.mu.Lock()
	p.looked = now
	was := p.about
	if err == nil {
		p.about = found
	}
	p.mu.Unlock()
	switch {
	case err != nil:
		p.cfg.Log.Debug("The model could not be looked up", "model", p.cfg.Model, "err", p.secrets.clean(err.Error(), key))
	case found.unseen && !was.unseen:
		p.cfg.Log.Warn("The API key has no access to the model; sessions open, but their responses may fail", "model", p.cfg.Model)
	case !found.shutdown.IsZero() && found != was:
		p.cfg.Log.Warn("The model will be shut down; choose another", "model", p.cfg.Model, "on", found.shutdown.Format(time.DateOnly))
	}
}

// Report is what the prober knows at some time.
type Report struct {
	At      time.Time
	State   State
	Verdict Verdict
	// Calls are the pod's calls; nil if there is no call-gate.
	Calls *call.Reading
	// SessionModel is the model of the latest session; Mismatch reports that it is not the
	// requested one.
	SessionModel string
	Mismatch     bool
	// Unseen reports that the model is not visible for the key; Shutdown is the day on which
	// the model ends, zero if none is announced.
	Unseen   bool
	Shutdown time.Time
}

// Report returns what the prober knows, from memory.
func (p *Prober) Report() Report {
	r := Report{At: p.clock.Now()}
	if p.cfg.Calls != nil {
		calls := p.cfg.Calls(r.At)
		r.Calls = &calls
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.State, r.SessionModel = p.state, p.model
	r.Unseen, r.Shutdown = p.about.unseen, p.about.shutdown
	r.Mismatch = p.mismatch(p.model)
	r.Verdict = p.cfg.Rules.Judge(r.State, r.Calls, r.At)
	return r
}

// maxAskers is the maximum number of connections: the kubelet and Prometheus need a few.
const maxAskers = 64
