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
	// BaseURL is the API's, such as wss://api.openai.com/v1 or, of a resource of Azure
	// OpenAI, https://RESOURCE.openai.azure.com.
	BaseURL string
	// Model is asked for by each session.
	Model string
	// Deployment is asked for in its place on Azure OpenAI; without it there, one that
	// is named as the model.
	Deployment string
	// APIVersion is that of Azure's preview API; may be empty.
	APIVersion string
	// KeyFile is the file with the key; it is read at each probe.
	KeyFile string
	// AuthHeader carries the key; Bearer without it.
	AuthHeader AuthHeader
	// Organization and Project name whom a session is for; may be empty.
	Organization, Project string
	// CA are certificates to trust besides the system's, in PEM; may be empty.
	CA []byte

	// Interval is the pause between probes, Timeout the bound of one.
	Interval, Timeout time.Duration
	// Rules are how much is forgiven. Without StaleAfter, three intervals and a timeout.
	Rules Rules

	// Calls says what the pod holds, from memory; nil if there is nobody to ask.
	Calls func(now time.Time) call.Reading

	Registry *prometheus.Registry
	Log      *slog.Logger
}

// Prober knows whether the Realtime API takes sessions. Its methods are safe for
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
	model  string // of the latest session that opened
	about  about
	looked time.Time // when about was asked for

	said Verdict // what the log says; only the loop knows it
}

// New checks cfg. Nothing is dialed or read before Run.
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

// Run probes, and answers on a listener, until ctx is done. It closes the listener.
func (p *Prober) Run(ctx context.Context, l net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return crowd.Serve(ctx, l, p.Handler(), maxAskers, p.cfg.Log) })
	group.Go(func() error { p.loop(ctx); return nil })
	return group.Wait()
}

// loop is the only one that probes, so there is never more than one probe.
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
	if ctx.Err() != nil { // it was not the API that ended the attempt
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
			log.Info("Realtime takes sessions")
		case v.Ready:
			log.Warn("Realtime takes no session; the pod stays ready")
		default:
			log.Error("Realtime takes no session; the pod is not ready")
		}
		p.said = v
	}
	if m := o.SessionModel; o.Class() == OK && m != was && p.mismatch(m) {
		p.cfg.Log.Warn("A session has another model than the one asked for", "asked", p.cfg.Model, "got", m)
	}
}

// mismatch reports whether a session has another model than the one asked for.
// Which model a deployment has is said where it is made, not here.
func (p *Prober) mismatch(model string) bool {
	return model != "" && !p.line.deployment && !sameModel(p.cfg.Model, model)
}

// learn looks the model up, now and then. Azure lists models, and no deployments.
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
		p.cfg.Log.Warn("The key does not see the model; sessions open, and their responses may fail", "model", p.cfg.Model)
	case !found.shutdown.IsZero() && found != was:
		p.cfg.Log.Warn("The model will be shut down; choose another", "model", p.cfg.Model, "on", found.shutdown.Format(time.DateOnly))
	}
}

// Report is what the prober knows at a time.
type Report struct {
	At      time.Time
	State   State
	Verdict Verdict
	// Calls is what the pod holds; nil if there is nobody to ask.
	Calls *call.Reading
	// SessionModel is the model of the latest session; Mismatch says that it is
	// not the one asked for.
	SessionModel string
	Mismatch     bool
	// Unseen says that the key does not see the model; Shutdown is the day of the
	// model's end, zero while none is announced.
	Unseen   bool
	Shutdown time.Time
}

// Report tells from memory; it asks nobody.
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

// maxAskers bounds the connections: the kubelet and a Prometheus have a few.
const maxAskers = 64
