// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/crowd"
	"github.com/callguard/callguard/pkg/trust"
	"github.com/callguard/callguard/pkg/weburl"
)

const (
	agentPath   = "/agent"
	dialTimeout = 10 * time.Second
	exampleURL  = "wss://livekit.example.com"
)

// Config is what a Gate needs.
type Config struct {
	// Upstream is the real LiveKit, such as wss://livekit.example.com.
	Upstream string
	// CA are certificates to trust besides the system's, in PEM; may be empty.
	CA []byte
	// Pod is the UID of the pod.
	Pod types.UID
	// Order is the file that the pod's annotations, or the one annotation
	// callguard.dev/draining, are in. Empty: nobody can order the pod to drain.
	Order string
	// Journal is a folder that outlives the process, not the pod. Empty: a gate
	// that is started again learns the number of jobs from the agent.
	Journal string
	// Workers are where the agents of the pod answer GET /worker.
	Workers []string
	// LaunchLimit is the longest that the agent takes from a job's assignment to its
	// process; 0 is DefaultLaunchLimit.
	LaunchLimit time.Duration
	// APIKey and APISecret let the gate look into the rooms of its jobs; may be empty.
	APIKey, APISecret string
	// RequestsPerMinute is the most that LiveKit's API is asked for that; 0 is
	// DefaultRequestsPerMinute.
	RequestsPerMinute int

	Registry *prometheus.Registry
	Log      *slog.Logger

	// patience is holdFor, but in tests.
	patience time.Duration
}

// Gate is one pod's gate.
type Gate struct {
	cfg       Config
	upstream  *url.URL // http or https
	media     string   // the same as ws or wss
	dialer    *websocket.Dialer
	transport *http.Transport
	upgrader  websocket.Upgrader
	other     *httputil.ReverseProxy
	book      *book
	able      *able
	journal   *journal
	ends      *ends
	counts    *Metrics

	sessions sync.Map // of *session by id
	closing  chan struct{}
	running  sync.WaitGroup
	next     atomic.Uint64
	reach    reach
	outage   outage
	patience time.Duration // holdFor
	lifted   atomic.Bool   // the order is gone from the file
}

// New checks cfg. Nothing is listened on, dialed or read before Run, but for
// the journal and the order, which New reads so that no job is let in before.
func New(cfg Config) (*Gate, error) {
	upstream, err := parseUpstream(cfg.Upstream)
	if err != nil {
		return nil, err
	}
	trust, err := trust.Besides(cfg.CA)
	if err != nil {
		return nil, err
	}
	if cfg.Pod == "" {
		return nil, errors.New("the gate does not know its pod; set POD_UID from metadata.uid")
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        16,
		IdleConnTimeout:     90 * time.Second,
	}
	g := &Gate{
		cfg: cfg, upstream: upstream, media: "ws" + strings.TrimPrefix(upstream.String(), "http"), transport: transport,
		dialer: &websocket.Dialer{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, HandshakeTimeout: dialTimeout,
		},
		// LiveKit does not look at the origin either: its tokens are what counts.
		upgrader: websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }},
		counts:   NewMetrics(cfg.Registry),
		closing:  make(chan struct{}),
		reach:    reach{log: cfg.Log, upstream: upstream.String()},
		patience: cmp.Or(cfg.patience, holdFor),
	}
	g.book = newBook(cfg.Pod, cmp.Or(cfg.LaunchLimit, DefaultLaunchLimit), time.Now(), g.counts)
	g.able = newAble(upstream.String(), time.Now(), cfg.Registry)
	cfg.Registry.MustRegister(newCollector(g.book))
	if g.ends, err = newEnds(g.book, cfg, transport); err != nil {
		return nil, err
	}
	g.other = &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		ErrorLog:      log.New(Discreet{cfg.Log}, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				why := g.unreachable(err)
				http.Error(w, "call-gate: "+why+": "+cause(err), http.StatusBadGateway)
			}
		},
	}
	if g.journal, err = openJournal(cfg.Journal, cfg.Log); err != nil {
		return nil, err
	}
	if err := g.recall(); err != nil {
		return nil, err
	}
	if err := g.readOrder(); err != nil {
		return nil, err
	}
	return g, nil
}

// parseUpstream reads LiveKit's URL. It takes no password, and so nothing that is logged
// or told has one.
func parseUpstream(raw string) (*url.URL, error) {
	u, err := weburl.Parse(raw, exampleURL)
	if err != nil {
		return nil, fmt.Errorf("LiveKit's URL: %w", err)
	}
	return u, nil
}

// recall takes over what an earlier gate of the pod knew.
func (g *Gate) recall() error {
	left, err := g.journal.read()
	if err != nil {
		return err
	}
	g.book.journal = g.journal
	whole := g.journal != nil && g.journal.whole
	g.book.restore(left, whole)
	if g.journal != nil && !whole {
		g.cfg.Log.Warn("The journal lacks jobs that could not be written; the agent is asked how many it has")
	}
	if len(left.jobs) > 0 {
		g.cfg.Log.Info("An earlier gate's jobs are taken over", "jobs", len(left.jobs))
	}
	return nil
}

// Run serves the agent on one listener and the status on another until ctx is
// done. It closes both.
func (g *Gate) Run(ctx context.Context, agent, status net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		close(g.closing)
		return nil
	})
	group.Go(func() error { return g.serveAgent(ctx, agent) })
	group.Go(func() error { return g.serveStatus(ctx, status) })
	group.Go(func() error { return g.followOrder(ctx) })
	group.Go(func() error { return g.ends.run(ctx) })
	group.Go(func() error { g.wonder(ctx); return nil })
	err := group.Wait()
	g.running.Wait()
	g.ends.close()
	return err
}

// wonderAfter is how long no worker has come before that is worth a line in the log: an
// agent that goes past the gate, or to a proxy, is heard of nowhere else.
const wonderAfter = 2 * time.Minute

// wonder says so once.
func (g *Gate) wonder(ctx context.Context) {
	timer := time.NewTimer(wonderAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		if a := g.answer(time.Now()); a.Unable == call.NoWorker {
			g.cfg.Log.Warn("The pod can take no call", "why", a.UnableWhy)
		}
	}
}

// maxAskers bounds the connections to the status port, to which others than the agent
// may come: adapters, guards, a Prometheus and the kubelet have some ten.
const maxAskers = 64

// serveAgent serves the agent, whose answers may stream for as long as they like. Only
// the pod itself can reach it.
func (g *Gate) serveAgent(ctx context.Context, l net.Listener) error {
	return crowd.Until(ctx, &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}, l, g.cfg.Log)
}

// serveStatus serves whoever asks how the pod is. However many do, they take no memory
// that the agent's websocket needs.
func (g *Gate) serveStatus(ctx context.Context, l net.Listener) error {
	return crowd.Serve(ctx, l, g.Status(), maxAskers, g.cfg.Log)
}

// Handler is what the agent's LIVEKIT_URL leads to.
func (g *Gate) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.TrimSuffix(r.URL.Path, "/") == agentPath && websocket.IsWebSocketUpgrade(r) {
			g.serveWorker(w, r)
			return
		}
		g.other.ServeHTTP(w, r)
	})
}

// serveWorker opens LiveKit's websocket first, so that the worker hears LiveKit's
// own refusal, and runs until one of the two ends. A LiveKit that is away refuses nobody:
// the worker is kept until it tries again.
func (g *Gate) serveWorker(w http.ResponseWriter, r *http.Request) {
	g.running.Add(1)
	defer g.running.Done()
	g.book.comes()
	server, answer, err := g.dial(r)
	if answer != nil {
		// What else is in it is nobody's business: LiveKit repeats tokens in it.
		_ = answer.Body.Close()
	}
	switch {
	case err == nil:
	case answer == nil, away(answer.StatusCode):
		g.counts.connections.WithLabelValues("unreachable").Inc()
		if answer != nil {
			err = &errAway{answer.StatusCode}
		}
		g.unreachable(err)
		g.able.fails(call.Unreachable, 0, time.Now())
		g.hold(w, r)
		return
	default:
		g.counts.connections.WithLabelValues("refused").Inc()
		g.refused(w, answer.StatusCode)
		return
	}
	defer server.Close() //nolint:errcheck // it has ended
	g.reach.well()
	g.outage.end()
	var header http.Header
	if p := server.Subprotocol(); p != "" {
		header = http.Header{"Sec-Websocket-Protocol": {p}}
	}
	agent, err := g.upgrader.Upgrade(w, r, header)
	if err != nil { // the worker has its answer
		g.cfg.Log.Warn("A worker's websocket could not be opened", "err", cause(err))
		return
	}
	defer agent.Close() //nolint:errcheck // it has ended
	g.counts.connections.WithLabelValues("open").Inc()

	id := g.next.Add(1)
	lines := g.cfg.Log.With("session", id)
	s := &session{
		filter: filter{id: id, book: g.book, url: g.media, log: lines},
		agent:  &wire{conn: agent}, server: &wire{conn: server}, onReady: g.ends.soon, able: g.able, ordered: make(chan struct{}, 1),
	}
	g.sessions.Store(id, s)
	defer g.sessions.Delete(id)
	g.able.fails(call.Registering, 0, time.Now())
	defer func() { g.able.loses(id, time.Now()) }()
	err = s.run(g.closing) //nolint:contextcheck // the request's context ends with the connection that the websocket took over
	why := cause(err)
	ended, isEnd := errors.AsType[*errEnded](err)
	if isEnd {
		why = ended.Error()
	}
	switch {
	case errors.Is(err, errClosing):
	case errors.Is(err, websocket.ErrReadLimit):
		lines.Warn("A worker's websocket was closed: a frame is larger than the gate takes", "most", maxFrame)
	case s.known.Load():
		lines.Info("A worker's websocket ended; its jobs go on", "why", why)
	case isEnd:
		lines.Warn("A websocket ended before a worker registered on it; is this an agent?", "why", why)
	default:
		lines.Warn("A websocket ended before a worker registered on it", "why", why)
	}
}

// dial opens the websocket to LiveKit with the worker's own token and query.
func (g *Gate) dial(r *http.Request) (conn *websocket.Conn, answer *http.Response, err error) {
	u := g.upstream.JoinPath(r.URL.Path)
	u.Scheme, u.RawQuery = "ws"+strings.TrimPrefix(u.Scheme, "http"), r.URL.RawQuery
	header := http.Header{}
	for name, values := range r.Header {
		switch {
		case strings.HasPrefix(name, "Sec-Websocket-"):
		case name == "Connection" || name == "Upgrade" || name == "Keep-Alive" || strings.HasPrefix(name, "Proxy-"):
		default:
			header[name] = values
		}
	}
	dialer := *g.dialer
	dialer.Subprotocols = websocket.Subprotocols(r)
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	defer cancel()
	// The library's dialer panics at a proxy's status line without a phrase.
	defer func() {
		if p := recover(); p != nil {
			conn, answer, err = nil, nil, errors.New("the proxy's answer to CONNECT cannot be read")
		}
	}()
	return dialer.DialContext(ctx, u.String(), header)
}

// errAway is an answer in the place of LiveKit's.
type errAway struct{ status int }

func (e *errAway) Error() string {
	return fmt.Sprintf("what is before it answers %d %s", e.status, http.StatusText(e.status))
}

// refused passes on how LiveKit refused a websocket. An answer of success is no
// websocket either, so the worker must not take it for one.
func (g *Gate) refused(w http.ResponseWriter, status int) {
	why := fmt.Sprintf("LiveKit at %s refuses the worker's websocket: %d %s", g.upstream, status, http.StatusText(status))
	class := call.NotLiveKit
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		class = call.Refused
		why += "; check the agent's LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and that the clocks agree"
	case status < http.StatusBadRequest:
		why += "; what answers there speaks no websockets: check the gate's LIVEKIT_URL"
	default:
		why += "; check the gate's LIVEKIT_URL"
	}
	g.able.fails(class, status, time.Now())
	g.reach.ill(why, "")
	if status < http.StatusBadRequest {
		status = http.StatusBadGateway
	}
	http.Error(w, "call-gate: "+why, status)
}

// unreachable notes that LiveKit cannot be reached, and says it.
func (g *Gate) unreachable(err error) (why string) {
	why = fmt.Sprintf("LiveKit at %s cannot be reached; check that it runs, and the gate's LIVEKIT_URL", g.upstream)
	g.reach.ill(why, cause(err))
	return why
}

// Discreet is where a library may write its log, whose lines may hold anything that
// others sent: that there was one is all that is kept.
type Discreet struct{ Log *slog.Logger }

// Write implements io.Writer.
func (d Discreet) Write(line []byte) (int, error) {
	d.Log.Debug("A library logged something about what a peer sent; it is not repeated")
	return len(line), nil
}

// reach tells in the log when LiveKit stops or begins to take workers.
type reach struct {
	log      *slog.Logger
	upstream string
	mu       sync.Mutex
	why      string
}

func (r *reach) ill(why, cause string) {
	r.mu.Lock()
	news := r.why != why
	r.why = why
	r.mu.Unlock()
	switch {
	case news && cause != "":
		r.log.Warn(why, "err", cause)
	case news:
		r.log.Warn(why)
	}
}

func (r *reach) well() {
	r.mu.Lock()
	news := r.why != ""
	r.why = ""
	r.mu.Unlock()
	if news {
		r.log.Info("LiveKit takes workers again", "url", r.upstream)
	}
}
