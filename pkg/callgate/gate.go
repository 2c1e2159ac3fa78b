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
	// CA has certificates to trust in addition to the system's, in PEM; may be empty.
	CA []byte
	// Pod is the UID of the pod.
	Pod types.UID
	// Order is the file with the pod's annotations, or with the one annotation
	// callguard.dev/draining. If it is empty, the pod cannot be ordered to drain.
	Order string
	// Journal is a folder that outlives the process, but not the pod. If it is empty, a
	// restarted gate learns the number of jobs from the agent.
	Journal string
	// Workers are the URLs at which the agents of the pod answer GET /worker.
	Workers []string
	// LaunchLimit is the maximum time from a job's assignment to its process; 0 means
	// DefaultLaunchLimit.
	LaunchLimit time.Duration
	// APIKey and APISecret let the gate look into the rooms of its jobs; may be empty.
	APIKey, APISecret string
	// RequestsPerMinute is the maximum number of requests to LiveKit's API for that; 0 means
	// DefaultRequestsPerMinute.
	RequestsPerMinute int

	Registry *prometheus.Registry
	Log      *slog.Logger

	// patience replaces holdFor in tests.
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
	lifted   atomic.Bool   // the order has disappeared from the file
}

// New checks cfg. It listens and connects to nothing before Run. It reads only the journal
// and the order, so that no job is accepted before they are known.
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
		// LiveKit does not check the origin either: only its tokens count.
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

// parseUpstream reads LiveKit's URL. It accepts no password, so that no log line or answer
// can contain one.
func parseUpstream(raw string) (*url.URL, error) {
	u, err := weburl.Parse(raw, exampleURL)
	if err != nil {
		return nil, fmt.Errorf("LiveKit's URL: %w", err)
	}
	return u, nil
}

// recall reads what an earlier gate of the pod knew.
func (g *Gate) recall() error {
	left, err := g.journal.read()
	if err != nil {
		return err
	}
	g.book.journal = g.journal
	whole := g.journal != nil && g.journal.whole
	g.book.restore(left, whole)
	if g.journal != nil && !whole {
		g.cfg.Log.Warn("The journal is incomplete, because jobs could not be written; the agent is asked how many it has")
	}
	if len(left.jobs) > 0 {
		g.cfg.Log.Info("Restored jobs from the journal", "jobs", len(left.jobs))
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

// wonderAfter is after how long without any worker the gate logs that. Nothing else shows
// an agent that bypasses the gate or connects to a proxy.
const wonderAfter = 2 * time.Minute

// wonder logs that once.
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

// maxAskers limits the connections to the status port, which is open to others than the
// agent: adapters, guards, Prometheus and the kubelet need about ten.
const maxAskers = 64

// serveAgent serves the agent. Answers may stream without a time limit, because only the
// pod itself can reach this port.
func (g *Gate) serveAgent(ctx context.Context, l net.Listener) error {
	return crowd.Until(ctx, &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}, l, g.cfg.Log)
}

// serveStatus serves the status port, with limits, so that many clients cannot take memory
// that the agent's websocket needs.
func (g *Gate) serveStatus(ctx context.Context, l net.Listener) error {
	return crowd.Serve(ctx, l, g.Status(), maxAskers, g.cfg.Log)
}

// Handler returns what the agent's LIVEKIT_URL leads to.
func (g *Gate) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.TrimSuffix(r.URL.Path, "/") == agentPath && websocket.IsWebSocketUpgrade(r) {
			g.serveWorker(w, r)
			return
		}
		g.other.ServeHTTP(w, r)
	})
}

// serveWorker opens LiveKit's websocket first, so that the worker gets LiveKit's own
// refusal, and runs until one of the two ends. If LiveKit is away, the worker's connection
// is held for a while, and the worker tries again.
func (g *Gate) serveWorker(w http.ResponseWriter, r *http.Request) {
	g.running.Add(1)
	defer g.running.Done()
	g.book.comes()
	server, answer, err := g.dial(r)
	if answer != nil {
		// Its body is not read: LiveKit repeats tokens in it.
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
	if err != nil { // the worker has got an answer already
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
		lines.Warn("Closed a worker's websocket: a frame exceeds call-gate's limit", "most", maxFrame)
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
	// The library's dialer panics if a proxy's status line has no reason phrase.
	defer func() {
		if p := recover(); p != nil {
			conn, answer, err = nil, nil, errors.New("the proxy's answer to CONNECT cannot be read")
		}
	}()
	return dialer.DialContext(ctx, u.String(), header)
}

// errAway is an answer from something in the place of LiveKit.
type errAway struct{ status int }

func (e *errAway) Error() string {
	return fmt.Sprintf("what is before it answers %d %s", e.status, http.StatusText(e.status))
}

// refused passes on LiveKit's refusal of a websocket. A status of success is no websocket
// either, so it is replaced by an error.
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

// unreachable records that LiveKit cannot be reached, and returns why.
func (g *Gate) unreachable(err error) (why string) {
	why = fmt.Sprintf("LiveKit at %s cannot be reached; check that it runs, and the gate's LIVEKIT_URL", g.upstream)
	g.reach.ill(why, cause(err))
	return why
}

// Discreet is a writer for a library's log, whose lines may contain anything that clients
// sent. It only logs that there was a line.
type Discreet struct{ Log *slog.Logger }

// Write implements io.Writer.
func (d Discreet) Write(line []byte) (int, error) {
	d.Log.Debug("A library logged something about what a peer sent; it is not repeated")
	return len(line), nil
}

// reach logs when LiveKit stops or begins to accept workers.
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
		r.log.Info("LiveKit accepts workers again", "url", r.upstream)
	}
}
