// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

const (
	key     = "sk-proj-AbC123_-secret-Zz9"
	model   = "gpt-realtime-2.1"
	created = `{"type":"session.created","event_id":"event_1","session":{"type":"realtime","object":"realtime.session","id":"sess_1","model":"` + model + `"}}`
)

// api is a Realtime API over TLS with a behaviour that the test sets.
type api struct {
	*httptest.Server

	mu    sync.Mutex
	serve http.HandlerFunc // a handler that opens no session

	model           atomic.Value // GET /models answers this; 404 while it is empty
	open, most, all atomic.Int64 // upgrades that run now, ran at once, ran at all
	goodbyes        chan int     // close codes of the client
	sent            atomic.Int64 // messages of the client
	requests        chan *http.Request
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{goodbyes: make(chan int, 64), requests: make(chan *http.Request, 64)}
	a.serve = a.session(created)
	a.model.Store("")
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/models/") {
			if body := a.model.Load().(string); body != "" {
				if strings.Contains(body, "model_not_found") {
					w.WriteHeader(http.StatusNotFound)
				}
				_, _ = io.WriteString(w, body)
				return
			}
			http.NotFound(w, r)
			return
		}
		a.all.Add(1)
		for n := a.open.Add(1); ; {
			most := a.most.Load()
			if n <= most || a.most.CompareAndSwap(most, n) {
				break
			}
		}
		defer a.open.Add(-1)
		select {
		case a.requests <- r.Clone(context.WithoutCancel(r.Context())):
		default:
		}
		a.mu.Lock()
		serve := a.serve
		a.mu.Unlock()
		serve(w, r)
	}))
	a.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	a.StartTLS()
	t.Cleanup(a.Close)
	return a
}

func (a *api) does(serve http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serve = serve
}

func (a *api) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
}

func (a *api) url() string { return "wss" + strings.TrimPrefix(a.URL, "https") + "/v1" }

// upgraded serves a websocket.
func upgraded(serve func(conn *websocket.Conn)) http.HandlerFunc {
	var upgrader websocket.Upgrader
	return func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // the test is over with it
		serve(conn)
	}
}

// says serves a websocket that sends one message, and ends with the client.
func says(kind int, message []byte) http.HandlerFunc {
	return upgraded(func(conn *websocket.Conn) {
		_ = conn.WriteMessage(kind, message)
		_, _, _ = conn.ReadMessage()
	})
}

// session serves a session, and records how the client left it.
func (a *api) session(event string) http.HandlerFunc {
	return upgraded(func(conn *websocket.Conn) {
		_ = conn.WriteMessage(websocket.TextMessage, []byte(event))
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				code := websocket.CloseAbnormalClosure
				if end := (*websocket.CloseError)(nil); errors.As(err, &end) {
					code = end.Code
				}
				select {
				case a.goodbyes <- code:
				default:
				}
				return
			}
			a.sent.Add(1)
		}
	})
}

// closes serves a websocket that is closed with this code and text.
func closes(code int, text string) http.HandlerFunc {
	return upgraded(func(conn *websocket.Conn) {
		_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(time.Second))
		_, _, _ = conn.ReadMessage()
	})
}

// raw serves a websocket that sends these bytes, and ends with the client.
func raw(b []byte) http.HandlerFunc {
	return upgraded(func(conn *websocket.Conn) {
		_, _ = conn.NetConn().Write(b)
		_, _, _ = conn.ReadMessage()
	})
}

// answers answers without a websocket.
func answers(status int, header http.Header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// tested is a prober and its output.
type tested struct {
	*Prober

	keyFile  string
	registry *prometheus.Registry
	logs     *trial.Log
}

// option changes settings that users cannot.
type option func(*Prober)

func withClock(c clock.Clock) option { return func(p *Prober) { p.clock = c } }

func newProber(t *testing.T, a *api, change func(*Config), options ...option) *tested {
	t.Helper()
	p := &tested{keyFile: filepath.Join(t.TempDir(), "api-key"), registry: prometheus.NewRegistry(), logs: &trial.Log{}}
	p.writeKey(t, key)
	cfg := Config{
		BaseURL: a.url(), Model: model, KeyFile: p.keyFile, CA: a.ca(),
		Interval: time.Minute, Timeout: 5 * time.Second,
		Rules:    Rules{Grace: 5 * time.Minute, FatalAfter: 2},
		Registry: p.registry,
		Log:      slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if p.Prober, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		o(p.Prober)
	}
	return p
}

// writeKey replaces the file as the kubelet does.
func (p *tested) writeKey(t *testing.T, content string) {
	t.Helper()
	next := p.keyFile + ".next"
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, p.keyFile); err != nil {
		t.Fatal(err)
	}
}

// get requests the verdict as a readiness probe does.
func (p *tested) get(t *testing.T) (int, Answer) {
	t.Helper()
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	var a Answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%q: %v", w.Body, err)
	}
	return w.Code, a
}

// told is everything that the prober shows to anybody.
func (p *tested) told(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{Path, "/metrics", "/healthz", "/livez"} {
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Fprintf(&all, "%v %s", w.Header(), w.Body)
	}
	return all.String() + p.logs.String()
}

// run runs the prober on a listener until the test ends; it returns the address.
func (p *tested) run(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the prober did not stop within 10 s")
		}
	})
	return "http://" + l.Addr().String()
}

// TestSession opens a session as the API requires, and closes it properly.
func TestSession(t *testing.T) {
	a := newAPI(t)
	p := newProber(t, a, func(c *Config) { c.Organization, c.Project = "org-1", "proj_1" })
	if code, got := p.get(t); code != http.StatusServiceUnavailable || got.Class != Pending || got.Age != nil {
		t.Errorf("before the first probe: %d, %+v", code, got)
	}
	p.probe(t.Context())
	code, got := p.get(t)
	if code != http.StatusOK || got.Age == nil {
		t.Fatalf("after it: %d, %+v\n%s", code, got, p.logs)
	}
	got.Age = nil
	want := Answer{Ready: true, Class: OK, Why: "a session opened", Model: model, SessionModel: model}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r := <-a.requests
	if r.URL.Path != "/v1/realtime" || r.URL.Query().Get("model") != model {
		t.Errorf("asked for %s", r.URL)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer " + key, "OpenAI-Organization": "org-1", "OpenAI-Project": "proj_1", "OpenAI-Beta": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("header %s is %q; want %q", name, got, want)
		}
	}
	select {
	case code := <-a.goodbyes:
		if code != websocket.CloseNormalClosure || a.sent.Load() != 0 {
			t.Errorf("the session was left with %d after %d events; want 1000 after none", code, a.sent.Load())
		}
	case <-time.After(10 * time.Second):
		t.Error("the session was not left within 10 s")
	}
}

// TestFailures lets the API, and proxies in front of it, fail in every known way. Each repeats the key where it can; nothing
// that the prober shows contains it.
func TestFailures(t *testing.T) {
	const event = websocket.TextMessage
	problem := func(kind, code string) string {
		return `{"type":"error","error":{"type":"` + kind + `","code":"` + code + `","message":"you sent ` + key + `"}}`
	}
	frame := func(kind, code string) http.HandlerFunc { return says(event, []byte(problem(kind, code))) }
	cases := map[string]struct {
		reason string
		serve  http.HandlerFunc
		change func(*Config)
		key    *string // content of the file; nil: a valid one
		want   Reason
		says   string
	}{
		"InvalidKey101": {reason: "101 is no success.", serve: closes(3000, "invalid_request_error.invalid_api_key"), want: KeyRejected, says: "3000"},
		"InvalidKey401": {reason: "The upgrade may be refused.", serve: answers(401, http.Header{"Www-Authenticate": {"Bearer " + key}}, problem("invalid_request_error", "invalid_api_key")), want: KeyRejected, says: "401"},
		"Echo":          {reason: "A server may repeat the key in a close; it goes no further.", serve: closes(3000, key), want: KeyRejected, says: hidden},
		"NoAccess":      {reason: "A key without access.", serve: answers(403, nil, ""), want: Forbidden, says: "403"},
		"BetaEvent":     {reason: "The header of the beta gets an event first.", serve: frame("invalid_request_error", "beta_api_shape_disabled"), want: BetaShape, says: hidden},
		"BetaClose":     {reason: "Or only the close.", serve: closes(4000, "invalid_request_error.beta_api_shape_disabled"), want: BetaShape},
		"ModelEvent":    {reason: "A model that is gone.", serve: frame("invalid_request_error", "model_not_found"), want: ModelGone},
		"Model404":      {reason: "A model that is gone.", serve: answers(404, nil, `{"error":{"code":"model_not_found"}}`), want: ModelGone, says: "model_not_found"},
		"Quota":         {reason: "An account without quota.", serve: frame("insufficient_quota", "insufficient_quota"), want: Quota},
		"Billing":       {reason: "An account at its limit.", serve: frame("invalid_request_error", "billing_hard_limit_reached"), want: Quota},
		"Deactivated":   {reason: "An account that was closed.", serve: frame("invalid_request_error", "account_deactivated"), want: Account},
		"ServerEvent":   {reason: "Trouble inside.", serve: frame("server_error", ""), want: ServerError},
		"OtherEvent":    {reason: "No session.created.", serve: says(event, []byte(`{"type":"`+key+`"}`)), want: Protocol, says: hidden},

		"1001": {reason: "Recoverable.", serve: closes(1001, "maximum duration"), want: Closed, says: "1001"},
		"1005": {reason: "Recoverable: a close without a code.", serve: raw([]byte{0x88, 0}), want: Closed, says: "1005"},
		"1006": {reason: "Recoverable: the connection is gone.", serve: upgraded(func(*websocket.Conn) {}), want: Closed, says: "1006"},
		"1011": {reason: "Recoverable.", serve: closes(1011, ""), want: Closed, says: "1011"},
		"1012": {reason: "Recoverable.", serve: closes(1012, ""), want: Closed, says: "1012"},
		"1013": {reason: "Recoverable.", serve: closes(1013, ""), want: Closed, says: "1013"},
		"1015": {reason: "It must not be on the wire; whoever puts it there is not the API.", serve: raw([]byte{0x88, 2, 0x03, 0xf7}), want: Protocol, says: "1015"},

		"Rubbish":    {reason: "No event.", serve: says(event, []byte("hello")), want: Protocol},
		"Binary":     {reason: "No event.", serve: says(websocket.BinaryMessage, []byte(created)), want: Protocol},
		"NoFrame":    {reason: "No websocket frame.", serve: raw([]byte("HTTP/1.1 200 OK\r\n\r\n")), want: Protocol},
		"Oversized":  {reason: "A frame is bounded.", serve: says(event, bytes.Repeat([]byte("a"), maxFrame+1)), want: Protocol, says: "larger"},
		"Endless":    {reason: "A frame is limited by its declared size, not by what has arrived.", serve: raw([]byte{0x81, 127, 0, 0, 0, 255, 0, 0, 0, 0}), want: Protocol, says: "larger"},
		"Fragments":  {reason: "A message in many frames is bounded, too.", serve: raw(append([]byte{0x01, 126, 0xff, 0xff}, bytes.Repeat(append([]byte{0x00, 126, 0xff, 0xff}, make([]byte, 0xffff)...), 8)...)), want: Protocol},
		"LongHeader": {reason: "So is an answer.", serve: answers(101, http.Header{"X-Long": {strings.Repeat("a", 2*maxHeard)}}, ""), want: Protocol, says: "larger"},
		"Page":       {reason: "A portal is no websocket.", serve: answers(200, nil, "<html>"+key), want: Protocol, says: "200 OK"},
		"Redirect":   {reason: "The key is not taken elsewhere.", serve: answers(307, http.Header{"Location": {"https://example.com/" + key}}, ""), want: Protocol, says: "307"},
		"Internal":   {reason: "It may pass.", serve: answers(500, nil, ""), want: ServerError, says: "500"},
		"Overloaded": {reason: "It may pass.", serve: answers(503, http.Header{"Retry-After": {"120"}}, ""), want: ServerError, says: "503"},
		"TooMany":    {reason: "It may pass.", serve: answers(429, nil, ""), want: RateLimited, says: "429"},
		"TooPoor":    {reason: "It will not.", serve: answers(429, nil, `{"error":{"code":"insufficient_quota"}}`), want: Quota},
		"Silence101": {reason: "Half a handshake is none.", serve: upgraded(func(c *websocket.Conn) { _, _, _ = c.ReadMessage() }), change: hasty, want: Timeout, says: "session.created did not come"},
		"Silence":    {reason: "No answer is none.", serve: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, change: hasty, want: Timeout, says: "no websocket opened"},
		"SlowBody":   {reason: "A status counts without its body.", serve: trickle, change: hasty, want: KeyRejected, says: "401"},
		"HangUp":     {reason: "It may pass.", serve: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: Unreachable},
		"TCPRefused": {reason: "It may pass.", change: func(c *Config) { c.BaseURL = "wss://" + nobody(t) + "/v1" }, want: Unreachable, says: "refused"},
		"Untrusted":  {reason: "TLS is verified.", change: func(c *Config) { c.CA = nil }, want: TLS, says: "--ca-file"},
		"OtherName":  {reason: "TLS is verified for this very name.", change: func(c *Config) { c.BaseURL = strings.Replace(c.BaseURL, "127.0.0.1", "localhost", 1) }, want: TLS},
		"NoTLS":      {reason: "A server without TLS gets no key.", change: func(c *Config) { c.BaseURL = "wss://" + plain(t) + "/v1" }, want: TLS},

		"KeyMissing": {reason: "No file, no session.", change: func(c *Config) { c.KeyFile += ".gone" }, want: KeyFile, says: "no such file"},
		"KeyEmpty":   {reason: "No key, no session.", key: new(""), want: KeyFile, says: "empty"},
		"KeyBlank":   {reason: "A line's end is no key.", key: new(" \n"), want: KeyFile, says: "empty"},
		"KeyTwice":   {reason: "Two lines are no key, nor may they add a header.", key: new(key + "\nOpenAI-Beta: realtime=v1\n"), want: KeyFile, says: "something else"},
		"KeyHuge":    {reason: "A file that is no key is not read whole.", key: new(strings.Repeat("a", maxKey+1)), want: KeyFile, says: "larger"},
		"KeyFolder":  {reason: "A folder is no key.", change: func(c *Config) { c.KeyFile = filepath.Dir(c.KeyFile) }, want: KeyFile},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			if tc.serve != nil {
				a.does(tc.serve)
			}
			p := newProber(t, a, tc.change)
			if tc.key != nil {
				p.writeKey(t, *tc.key)
			}
			p.probe(t.Context())
			_, got := p.get(t)
			if got.Reason != tc.want || got.Class != tc.want.Class() || !strings.Contains(got.Why, tc.says) {
				t.Errorf("%s got %s %s, %q; want %s, %q", tc.reason, got.Class, got.Reason, got.Why, tc.want, tc.says)
			}
			if tc.want == KeyFile && a.all.Load() > 0 {
				t.Error("the API was asked without a key")
			}
			if strings.Contains(p.told(t), key) {
				t.Errorf("the key is published: %s", p.told(t))
			}
			if n := testutil.ToFloat64(p.counts.errors.WithLabelValues(string(got.Class), string(got.Reason))); n != 1 {
				t.Errorf("callguard_realtime_probe_error_total counts %g", n)
			}
			a.does(a.session(created))
			p.writeKey(t, key)
			if tc.change == nil {
				if p.probe(t.Context()); !p.Report().Verdict.Ready {
					t.Errorf("it must be well again: %+v", p.Report())
				}
			}
		})
	}
}

// TestNoSuchName uses no resolver, because how long one takes does not matter here.
func TestNoSuchName(t *testing.T) {
	o := undialed(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "api.invalid", IsNotFound: true}})
	if o.Reason != Unreachable || !strings.Contains(o.Why(), "api.invalid") || !strings.Contains(o.Why(), "DNS") {
		t.Errorf("got %s, %q", o.Reason, o.Why())
	}
}

// hasty waits no longer than a busy machine needs for the first part.
func hasty(c *Config) { c.Timeout = 5 * time.Second }

// trickle begins an answer and does not finish it.
func trickle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "100")
	w.WriteHeader(http.StatusUnauthorized)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // that is what it is for
	return l.Addr().String()
}

// plain is a server without TLS, which must not get a request.
func plain(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the key was sent in clear text")
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestProxies uses one proxy, and one that refuses in a way that crashes the websocket library by itself.
func TestProxies(t *testing.T) {
	cases := map[string]struct {
		reason string
		answer string
		want   Reason
	}{
		"Works":    {reason: "A proxy passes the session on.", answer: "HTTP/1.1 200 OK\r\n\r\n"},
		"Refuses":  {reason: "A proxy may refuse, and repeat the request.", answer: "HTTP/1.1 407 Give Bearer " + key + "\r\n\r\n", want: Unreachable},
		"NoPhrase": {reason: "A status line may end with its number.", answer: "HTTP/1.1 403\r\n\r\n", want: Unreachable},
		"Rubbish":  {reason: "It may be no proxy at all.", answer: "hello\r\n\r\n", want: Unreachable},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go forward(c, tc.answer)
				}
			}()
			a := newAPI(t)
			p := newProber(t, a, nil, func(p *Prober) {
				p.line.proxy = func(r *http.Request) (*url.URL, error) {
					if r.URL.Scheme != "https" {
						t.Errorf("asked for the proxy of %s", r.URL)
					}
					return &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "proxy-password")}, nil
				}
			})
			p.probe(t.Context())
			if got := p.Report().Verdict; got.Reason != tc.want {
				t.Errorf("%s got %+v", tc.reason, got)
			}
			if told := p.told(t); strings.Contains(told, key) || strings.Contains(told, "proxy-password") {
				t.Errorf("a secret is published: %s", told)
			}
		})
	}
}

// forward answers a CONNECT, and forwards the connection if it accepted.
func forward(c net.Conn, answer string) {
	defer c.Close() //nolint:errcheck // it has ended
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil || r.Method != http.MethodConnect {
		return
	}
	if _, err := io.WriteString(c, answer); err != nil || !strings.Contains(answer, " 200 ") {
		return
	}
	to, err := net.Dial("tcp", r.Host)
	if err != nil {
		return
	}
	defer to.Close() //nolint:errcheck // it has ended
	go func() { _, _ = io.Copy(c, to) }()
	_, _ = io.Copy(to, in)
}

// TestLoop runs through a rotated key and an outage, with a simulated clock.
func TestLoop(t *testing.T) {
	a := newAPI(t)
	valid := atomic.Value{}
	valid.Store(key)
	a.does(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+valid.Load().(string) {
			closes(3000, "invalid_request_error.invalid_api_key")(w, r)
			return
		}
		a.session(created)(w, r)
	})
	c := testclock.NewFakeClock(time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC))
	calls := atomic.Value{}
	calls.Store(call.Known(0, c.Now()))
	p := newProber(t, a, func(cfg *Config) {
		cfg.Calls = func(time.Time) call.Reading { return calls.Load().(call.Reading) }
	}, withClock(c), func(p *Prober) { p.chance = func() float64 { return 0.5 } })
	p.run(t)
	// after waits for the next probe, which comes after this pause and not before.
	after := func(d time.Duration) {
		t.Helper()
		// The API may still be ending a session that the prober has left.
		trial.Eventually(t, "the loop pauses, and no session is open", func() bool { return c.HasWaiters() && a.open.Load() == 0 })
		n := a.all.Load()
		c.Step(d - time.Millisecond)
		if !c.HasWaiters() {
			t.Fatalf("the probe came before %s had passed", d)
		}
		c.Step(time.Millisecond)
		trial.Eventually(t, "another probe", func() bool { return a.all.Load() == n+1 && c.HasWaiters() })
	}
	is := func(code int, class Class, held bool) {
		t.Helper()
		if got, a := p.get(t); got != code || a.Class != class || a.Held != held {
			t.Fatalf("got %d, %+v; want %d, %s, held %t\n%s", got, a, code, class, held, p.logs)
		}
	}
	trial.Eventually(t, "a first session", func() bool { code, _ := p.get(t); return code == http.StatusOK })

	valid.Store("sk-new") // the key is rotated, but the new Secret has not arrived yet
	after(time.Minute)
	is(200, Fatal, false)
	after(15 * time.Second)
	is(503, Fatal, false)
	calls.Store(call.Known(2, c.Now()))
	is(200, Fatal, true)
	calls.Store(call.Unknown("connection refused"))
	is(200, Fatal, true)
	calls.Store(call.Known(0, c.Now()))
	is(503, Fatal, false)
	p.writeKey(t, "sk-new\n")
	after(30 * time.Second)
	is(200, OK, false)

	a.does(answers(500, nil, ""))
	after(time.Minute)
	is(200, Degraded, false)
	after(15 * time.Second)
	after(30 * time.Second)
	after(time.Minute)
	after(2 * time.Minute)
	is(200, Degraded, false) // 3 min 45 s
	trial.Eventually(t, "the loop pauses", c.HasWaiters)
	c.Step(75 * time.Second)
	is(503, Degraded, false) // the grace time is over without another probe
	c.Step(-75 * time.Second)
	after(4 * time.Minute)
	after(5 * time.Minute)
	after(5 * time.Minute)
	is(503, Degraded, false)
	a.does(a.session(created))
	after(5 * time.Minute)
	is(200, OK, false)
	if most := a.most.Load(); most != 1 {
		t.Errorf("%d probes at once", most)
	}
	for what, n := range map[string]int{`msg="The Realtime API accepts sessions"`: 3, "the pod is not ready": 2} {
		if got := strings.Count(p.logs.String(), what); got != n {
			t.Errorf("the log says %d times %s; want %d\n%s", got, what, n, p.logs)
		}
	}
}

// TestManyAsk requests the verdict while a probe hangs: no request waits, and no other probe begins.
func TestManyAsk(t *testing.T) {
	a := newAPI(t)
	hang := make(chan struct{})
	a.does(upgraded(func(conn *websocket.Conn) {
		<-hang
		_ = conn.WriteMessage(websocket.TextMessage, []byte(created))
		_, _, _ = conn.ReadMessage()
	}))
	p := newProber(t, a, func(c *Config) { c.Timeout = time.Minute })
	url := p.run(t)
	trial.Eventually(t, "a probe", func() bool { return a.open.Load() == 1 })
	began := time.Now()
	var asks sync.WaitGroup
	for range 8 {
		asks.Go(func() {
			for range 50 {
				resp, err := http.Get(url + Path)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !bytes.Contains(body, []byte(Pending)) {
					t.Errorf("%s, %q, %v", resp.Status, body, err)
					return
				}
			}
		})
	}
	asks.Wait()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("400 answers took %s while a probe hung", took)
	}
	if n := a.all.Load(); n != 1 {
		t.Errorf("%d probes; want the one that hangs", n)
	}
	for _, path := range []string{"/healthz", "/livez"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s; the process works", path, resp.Status)
		}
	}
	close(hang)
	trial.Eventually(t, "a session", func() bool { code, _ := p.get(t); return code == http.StatusOK })
}

// TestStopsInMidProbe ends while a probe hangs, and does not count that as a failure.
func TestStopsInMidProbe(t *testing.T) {
	a := newAPI(t)
	a.does(upgraded(func(conn *websocket.Conn) { _, _, _ = conn.ReadMessage() }))
	p := newProber(t, a, func(c *Config) { c.Timeout = time.Minute })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, l) }()
	trial.Eventually(t, "a probe", func() bool { return a.open.Load() == 1 })
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the prober did not stop within 10 s")
	}
	if r := p.Report(); r.State.Failures != 0 {
		t.Errorf("a stop counted as a failure: %+v", r)
	}
}

// TestAbout warns of what is no failure yet: a different model, or a model that will be shut down.
func TestAbout(t *testing.T) {
	a := newAPI(t)
	a.does(a.session(`{"type":"session.created","session":{"model":"gpt-realtime-mini"}}`))
	a.model.Store(`{"id":"` + model + `","object":"model","shutdown_date":"2027-01-20"}`)
	p := newProber(t, a, nil)
	p.probe(t.Context())
	code, got := p.get(t)
	want := []string{"the session uses a different model than requested", "the model will be shut down on 2027-01-20; choose another"}
	if diff := cmp.Diff(want, got.Warnings); code != http.StatusOK || got.SessionModel != "gpt-realtime-mini" || diff != "" {
		t.Errorf("%d, %+v\n%s", code, got, diff)
	}
	metrics := `
# HELP callguard_realtime_model_mismatch 1 if the latest session had another model than the one asked for.
# TYPE callguard_realtime_model_mismatch gauge
callguard_realtime_model_mismatch 1
# HELP callguard_realtime_model_shutdown_timestamp_seconds When the model will be shut down; absent while nothing is announced.
# TYPE callguard_realtime_model_shutdown_timestamp_seconds gauge
callguard_realtime_model_shutdown_timestamp_seconds 1.8004032e+09
`
	if err := testutil.GatherAndCompare(p.registry, strings.NewReader(metrics), "callguard_realtime_model_mismatch", "callguard_realtime_model_shutdown_timestamp_seconds"); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"uses a different model", "will be shut down"} {
		if n := strings.Count(p.logs.String(), text); n != 1 {
			t.Errorf("the log says %d times %q\n%s", n, text, p.logs)
		}
	}
	for range 2 {
		p.probe(t.Context())
	}
	for _, text := range []string{"uses a different model", "will be shut down"} {
		if n := strings.Count(p.logs.String(), text); n != 1 {
			t.Errorf("the log repeats %q\n%s", text, p.logs)
		}
	}
}

// TestUnseen warns of a model that opens sessions and cannot answer in them.
func TestUnseen(t *testing.T) {
	a := newAPI(t)
	a.model.Store(`{"error":{"code":"model_not_found","message":"` + key + `"}}`)
	p := newProber(t, a, nil)
	p.probe(t.Context())
	code, got := p.get(t)
	want := []string{"the API key has no access to the model; sessions open, but their responses may fail"}
	if diff := cmp.Diff(want, got.Warnings); code != http.StatusOK || diff != "" {
		t.Errorf("%d, %+v\n%s", code, got, diff)
	}
	if !strings.Contains(p.logs.String(), "has no access to the model") || strings.Contains(p.told(t), key) {
		t.Errorf("the log must warn, and not tell the key: %s", p.told(t))
	}
}

func TestParseAbout(t *testing.T) {
	cases := map[string]struct {
		body  string
		want  about
		fails bool
	}{
		"None":    {body: `{"id":"m"}`},
		"Null":    {body: `{"id":"m","shutdown_date":null}`},
		"Day":     {body: `{"id":"m","shutdown_date":"2027-01-20"}`, want: about{shutdown: time.Date(2027, 1, 20, 0, 0, 0, 0, time.UTC)}},
		"NoDay":   {body: `{"id":"m","shutdown_date":"soon"}`, fails: true},
		"NoModel": {body: `{}`, fails: true},
		"Page":    {body: `<html>`, fails: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseAbout([]byte(tc.body))
			if got != tc.want || (err != nil) != tc.fails {
				t.Errorf("parseAbout(%s) = %+v, %v", tc.body, got, err)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	a := newAPI(t)
	c := testclock.NewFakeClock(time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC))
	p := newProber(t, a, nil, withClock(c))
	p.probe(t.Context())
	c.Step(7 * time.Second)
	names := []string{"callguard_realtime_probe_success", "callguard_realtime_probe_age_seconds", "callguard_realtime_ready", "callguard_realtime_ready_held"}
	const help = `
# HELP callguard_realtime_probe_age_seconds How long ago the latest probe ended; absent before the first.
# TYPE callguard_realtime_probe_age_seconds gauge
# HELP callguard_realtime_probe_success 1 if the latest probe opened a session, 0 if it failed; absent before the first.
# TYPE callguard_realtime_probe_success gauge
# HELP callguard_realtime_ready 1 while GET /healthz/realtime answers 200.
# TYPE callguard_realtime_ready gauge
# HELP callguard_realtime_ready_held 1 while it answers 200 only because the pod holds calls, or may hold some.
# TYPE callguard_realtime_ready_held gauge
`
	if err := testutil.GatherAndCompare(p.registry, strings.NewReader(help+`
callguard_realtime_probe_age_seconds 7
callguard_realtime_probe_success 1
callguard_realtime_ready 1
callguard_realtime_ready_held 0
`), names...); err != nil {
		t.Error(err)
	}
	a.does(answers(401, nil, ""))
	p.probe(t.Context())
	p.probe(t.Context())
	if err := testutil.GatherAndCompare(p.registry, strings.NewReader(help+`
callguard_realtime_probe_age_seconds 0
callguard_realtime_probe_success 0
callguard_realtime_ready 0
callguard_realtime_ready_held 0
`), names...); err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(p.counts.errors.WithLabelValues("FATAL", "key_rejected")); n != 2 {
		t.Errorf("callguard_realtime_probe_error_total counts %g; want 2", n)
	}
}

func TestNewTellsMistakes(t *testing.T) {
	cases := map[string]struct {
		reason string
		base   string
		ca     string
		says   string // empty: it works
	}{
		"OpenAI":    {reason: "The default works.", base: "wss://api.openai.com/v1"},
		"HTTPS":     {reason: "So does the URL that the SDKs take.", base: "https://api.openai.com/v1/"},
		"Gateway":   {reason: "And one of somebody else.", base: "wss://gateway.example.com/openai/v1"},
		"Written":   {reason: "As every program takes it: letter case, slashes, the end of a line.", base: " WSS://api.openai.com//v1//\n"},
		"Query":     {reason: "A query is a separate setting.", base: "https://x.openai.azure.com/openai/realtime?api-version=1&deployment=hunter2", says: "--api-version and --deployment"},
		"Loopback":  {reason: "Clear text does not leave the pod.", base: "ws://127.0.0.1:8080/v1"},
		"ClearText": {reason: "The key is not sent in clear text.", base: "ws://gateway.example.com/v1", says: "clear text"},
		"Password":  {reason: "A password in a URL is not repeated.", base: "wss://user:hunter2@example.com/v1", says: "password"},
		"Broken":    {reason: "Nor is it where the URL is broken.", base: "wss://user:hunter2@exa mple.com/v1", says: "such as wss://api.openai.com/v1"},
		"NoScheme":  {reason: "A host alone is no URL.", base: "api.openai.com/v1", says: "scheme"},
		"NoHost":    {reason: "A URL names a host.", base: "wss:///v1", says: "no host"},
		"NoCA":      {reason: "A CA file holds certificates.", base: "wss://api.openai.com/v1", ca: "hello", says: "PEM"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := New(Config{
				BaseURL: tc.base, CA: []byte(tc.ca), Model: model, KeyFile: "key", Interval: time.Minute, Timeout: time.Second,
				Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
			})
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("%s got %v", tc.reason, err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter2")):
				t.Errorf("%s got %v; want it to say %q", tc.reason, err, tc.says)
			}
		})
	}
}

func TestClean(t *testing.T) {
	cases := map[string]struct{ key, text, want string }{
		"Key":      {text: "you sent " + key, want: "you sent " + hidden},
		"Gateway":  {key: "tenant7/abc+def==", text: "no such key: tenant7/abc+def==.", want: "no such key: " + hidden + "."},
		"OtherKey": {text: "Incorrect API key provided: sk-proj-abcd***********wxyz. You can", want: "Incorrect API key provided: " + hidden + " You can"},
		"Bearer":   {text: "Authorization: bearer abc.def", want: "Authorization: bearer " + hidden},
		"Userinfo": {text: `invalid proxy address "http://u:p@proxy:1"`, want: `invalid proxy address "http://` + hidden + `@proxy:1"`},
		"Lines":    {text: "a\r\nb\x00c\u2028d", want: "a  b c d"},
		"Long":     {text: strings.Repeat("é", maxText+5), want: strings.Repeat("é", maxText) + "…"},
		"Plain":    {text: "task-force and desk-lamp", want: "task-force and desk-lamp"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.key == "" {
				tc.key = key
			}
			if got := newSecrets().clean(tc.text, tc.key); got != tc.want {
				t.Errorf("got %q; want %q", got, tc.want)
			}
		})
	}
}
