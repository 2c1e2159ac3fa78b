// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/test/trial"
)

// opened is a running gate and its address.
type opened struct {
	*Gate

	agentURL, status string
	logs             *trial.Log
	stop             func()
}

// open runs a gate before an upstream until the test ends, or stop is called.
func open(t testing.TB, upstream string, change func(*Config)) *opened {
	t.Helper()
	o := &opened{logs: &trial.Log{}}
	cfg := Config{
		Upstream: upstream, Pod: "pod", Journal: t.TempDir(), Registry: prometheus.NewRegistry(),
		Log: slog.New(slog.NewTextHandler(o.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.Gate = g
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	agent, status := listen(), listen()
	o.agentURL, o.status = "ws://"+agent.Addr().String(), "http://"+status.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, agent, status) }()
	o.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the gate ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the gate did not end within 10 s")
		}
	})
	t.Cleanup(o.stop)
	return o
}

func (o *opened) calls(t testing.TB) gate.Answer {
	t.Helper()
	resp, err := http.Get(o.status + gate.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a gate.Answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

// upstream is a LiveKit that returns the websockets that are opened to it.
type upstream struct {
	*httptest.Server

	conns  chan *websocket.Conn
	header chan http.Header
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{conns: make(chan *websocket.Conn, 100), header: make(chan http.Header, 100)}
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case websocket.IsWebSocketUpgrade(r) && r.Header.Get("Authorization") == "Bearer good":
			conn, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			u.header <- r.Header
			u.conns <- conn
		case websocket.IsWebSocketUpgrade(r):
			http.Error(w, "invalid token", http.StatusUnauthorized)
		default:
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Path", r.URL.RequestURI())
			_, _ = w.Write(append([]byte("echo "), body...))
		}
	}))
	t.Cleanup(u.Close)
	return u
}

// pair is an agent's websocket and LiveKit's, with a gate between them.
type pair struct {
	gate          *opened
	agent, server *websocket.Conn
}

func newPair(t testing.TB, change func(*Config)) *pair {
	t.Helper()
	u := newUpstream(t)
	g := open(t, u.URL, change)
	agent, server := dialPair(t, u, g.agentURL)
	return &pair{gate: g, agent: agent, server: server}
}

func dialPair(t testing.TB, u *upstream, agentURL string) (agent, server *websocket.Conn) {
	t.Helper()
	agent, resp, err := websocket.DefaultDialer.Dial(agentURL+"/agent", http.Header{"Authorization": {"Bearer good"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	server = <-u.conns
	<-u.header
	t.Cleanup(func() { _ = agent.Close(); _ = server.Close() })
	return agent, server
}

func send(t testing.TB, c *websocket.Conn, f frame) {
	t.Helper()
	if err := c.WriteMessage(f.kind, f.body); err != nil {
		t.Fatal(err)
	}
}

func next(t testing.TB, c *websocket.Conn) frame {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	kind, body, err := c.ReadMessage()
	if err != nil {
		t.Fatalf("no frame came: %v", err)
	}
	return frame{kind: kind, body: body}
}

// TestOrder orders the pod to drain as the kubelet does and checks the consequences.
func TestOrder(t *testing.T) {
	volume := t.TempDir()
	write := func(n int, text string) {
		dir := fmt.Sprintf("..%d", n)
		if err := errors.Join(
			os.Mkdir(filepath.Join(volume, dir), 0o755),
			os.WriteFile(filepath.Join(volume, dir, "annotations"), []byte(text), 0o644),
			os.Symlink(dir, filepath.Join(volume, "..tmp")),
			os.Rename(filepath.Join(volume, "..tmp"), filepath.Join(volume, "..data")),
		); err != nil {
			t.Fatal(err)
		}
	}
	write(1, "a=\"b\"\n")
	if err := os.Symlink("..data/annotations", filepath.Join(volume, "annotations")); err != nil {
		t.Fatal(err)
	}
	journal := t.TempDir()
	p := newPair(t, func(c *Config) { c.Order, c.Journal = filepath.Join(volume, "annotations"), journal })
	register := binary(t, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{}}})
	send(t, p.agent, register)
	next(t, p.server)
	// One job runs, and one offer has reached the agent.
	send(t, p.server, binary(t, offerOf("a", "room-a")))
	next(t, p.agent)
	send(t, p.agent, binary(t, yes("a")))
	next(t, p.server)
	send(t, p.server, binary(t, assignmentOf("a", "room-a")))
	next(t, p.agent)
	send(t, p.server, binary(t, offerOf("b", "room-b")))
	next(t, p.agent)

	const mark = "drain 2026-01-02T15:04:05Z"
	written := time.Now()
	write(2, "a=\"b\"\n"+call.DrainingAnnotation+"=\""+mark+"\"\n")
	trial.Eventually(t, "the order is acknowledged", func() bool { return p.gate.calls(t).Draining == mark })
	t.Logf("acknowledged after %s", time.Since(written))
	if full, err := next(t, p.server).worker(); err != nil || full.GetUpdateWorker().GetStatus() != livekit.WorkerStatus_WS_FULL {
		t.Errorf("LiveKit must hear that the worker is full; got %v, %v", full, err)
	}
	// The agent accepts the earlier offer; LiveKit gets a refusal.
	send(t, p.agent, binary(t, yes("b")))
	if no, err := next(t, p.server).worker(); err != nil || no.GetAvailability().GetJobId() != "b" || no.GetAvailability().GetAvailable() {
		t.Errorf("an answer after the order must be no; got %v, %v", no, err)
	}
	// A new offer does not reach the agent.
	send(t, p.server, binary(t, offerOf("c", "room-c")))
	if no, err := next(t, p.server).worker(); err != nil || no.GetAvailability().GetJobId() != "c" || no.GetAvailability().GetAvailable() {
		t.Errorf("an offer after the order must be answered no; got %v, %v", no, err)
	}
	if a := p.gate.calls(t); a.Running != 1 || a.Calls != 1 || a.Drained {
		t.Errorf("the running call goes on; got %+v", a)
	}
	// An annotation that vanishes changes nothing.
	write(3, "a=\"b\"\n")
	trial.Eventually(t, "the log says that the order is gone", func() bool { return strings.Contains(p.gate.logs.String(), "the order stays in effect") })
	if a := p.gate.calls(t); a.Draining != mark {
		t.Errorf("the order must stay; got %+v", a)
	}
	write(4, call.DrainingAnnotation+"=\""+mark+"\"\n")
	trial.Eventually(t, "the order is read again", func() bool { return !p.gate.lifted.Load() })

	// A restarted gate knows the order and the job before it listens.
	p.gate.stop()
	again, err := New(Config{
		Upstream: "ws://127.0.0.1:1", Pod: "pod", Order: filepath.Join(volume, "annotations"), Journal: journal,
		Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if a := again.book.answer(time.Now()); a.Draining != mark || a.Running != 1 || !a.Known || a.Drained {
		t.Errorf("after a restart: %+v", a)
	}
}

// TestNoPassword: LiveKit's URL is logged, so it may contain no password.
func TestNoPassword(t *testing.T) {
	for _, u := range []string{"wss://user:hidden@livekit", "wss://hidden@livekit", "wss://user:hidden@livekit:port", "user:hidden@livekit"} {
		_, err := New(Config{Upstream: u, Pod: "pod", Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
		if err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), "user name or password before an @") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

// TestRoomsStayInside: rooms are only shown to clients inside the pod.
func TestRoomsStayInside(t *testing.T) {
	p := newPair(t, nil)
	p.gate.book.assign(1, "a", "+4930123456", "agent-a", time.Now())
	for from, want := range map[string]string{"127.0.0.1:1": "+4930123456", "[::1]:1": "+4930123456", "10.0.0.9:1": "", "nonsense": ""} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, gate.Path, nil)
		r.RemoteAddr = from
		p.gate.Status().ServeHTTP(w, r)
		var a gate.Answer
		if err := json.NewDecoder(w.Body).Decode(&a); err != nil {
			t.Fatal(err)
		}
		if len(a.Jobs) != 1 || a.Jobs[0].Room != want || a.Jobs[0].Started.IsZero() {
			t.Errorf("%s gets %+v; want room %q", from, a.Jobs, want)
		}
	}
}

// TestPassThrough sends everything that is not a worker's websocket through the gate.
func TestPassThrough(t *testing.T) {
	u := newUpstream(t)
	g := open(t, u.URL, nil)
	resp, err := http.Post("http"+strings.TrimPrefix(g.agentURL, "ws")+"/twirp/livekit.RoomService/ListRooms?x=1", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "echo {}" || resp.Header.Get("X-Path") != "/twirp/livekit.RoomService/ListRooms?x=1" {
		t.Errorf("got %q for %s", body, resp.Header.Get("X-Path"))
	}
	// A websocket of a room.
	conn, answer, err := websocket.DefaultDialer.Dial(g.agentURL+"/rtc?access_token=x", http.Header{"Authorization": {"Bearer good"}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	server := <-u.conns
	t.Cleanup(func() { _ = conn.Close(); _ = server.Close() })
	send(t, conn, text("hello"))
	if f := next(t, server); string(f.body) != "hello" {
		t.Errorf("got %q", f.body)
	}
	// An agent that is requested by plain HTTP gets LiveKit's own answer.
	plain, err := http.Get("http" + strings.TrimPrefix(g.agentURL, "ws") + "/agent")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Body.Close()
	if plain.Header.Get("X-Path") != "/agent" {
		t.Errorf("got %s", plain.Status)
	}
}

// TestTrouble has every kind of faulty upstream and client: the client gets a clear
// status, the log says what to do, and nothing crashes.
func TestTrouble(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "ws://" + closed.Addr().String()
	_ = closed.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "It works!") }))
	defer plain.Close()
	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = garbage.Close() }()
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
			_ = c.Close()
		}
	}()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
	}))
	defer busy.Close()
	const held = http.StatusSwitchingProtocols
	cases := map[string]struct {
		upstream string
		token    string
		status   int
		log      string
		unable   call.Ability
	}{
		"Down":     {nobody, "good", held, "cannot be reached", call.Unreachable},
		"WrongKey": {newUpstream(t).URL, "bad", http.StatusUnauthorized, "check the agent's LIVEKIT_API_KEY", call.Refused},
		"HTTPOnly": {plain.URL, "good", http.StatusBadGateway, "speaks no websockets", call.NotLiveKit},
		"NoHTTP":   {"ws://" + garbage.Addr().String(), "good", held, "cannot be reached", call.Unreachable},
		"NotTLS":   {"wss" + strings.TrimPrefix(plain.URL, "http"), "good", held, "cannot be reached", call.Unreachable},
		"Replaced": {busy.URL, "good", held, "what is before it answers 503", call.Unreachable},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g := open(t, tc.upstream, func(c *Config) { c.patience = 50 * time.Millisecond })
			for range 3 {
				conn, resp, err := websocket.DefaultDialer.Dial(g.agentURL+"/agent", http.Header{"Authorization": {"Bearer " + tc.token}})
				if tc.status == held {
					if err != nil {
						t.Fatalf("a worker is kept while LiveKit is away; got %v", err)
					}
					if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
						t.Errorf("want an answer to try again; got %v", err)
					}
					_ = conn.Close()
					continue
				}
				if !errors.Is(err, websocket.ErrBadHandshake) {
					t.Fatalf("want a bad handshake, got %v", err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != tc.status || !strings.Contains(string(body), "call-gate: LiveKit at") {
					t.Errorf("got %s: %s; want %d", resp.Status, body, tc.status)
				}
			}
			if n := strings.Count(g.logs.String(), tc.log); n != 1 {
				t.Errorf("the log says %q %d times; want once for the same trouble:\n%s", tc.log, n, g.logs)
			}
			a := g.calls(t)
			if a.Calls != 0 || a.Workers != 0 || !a.Used || !a.Known {
				t.Errorf("an agent whose websocket LiveKit refuses has no calls, but the gate reports %+v", a)
			}
			if a.Ability() != tc.unable || a.UnableWhy == "" {
				t.Errorf("it says that it is %q: %s; want %q", a.Ability(), a.UnableWhy, tc.unable)
			}
			if n := testutil.ToFloat64(g.able.refusals.WithLabelValues(string(tc.unable))); n != 3 {
				t.Errorf("%v refused registrations are counted", n)
			}
		})
	}
}

// TestTLS: the gate trusts a private authority only if it is configured.
func TestTLS(t *testing.T) {
	u := newUpstream(t)
	secure := httptest.NewTLSServer(u.Config.Handler)
	defer secure.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	g := open(t, "wss"+strings.TrimPrefix(secure.URL, "https"), func(c *Config) { c.CA = ca })
	agent, server := dialPair(t, u, g.agentURL)
	send(t, agent, binary(t, yes("a")))
	next(t, server)
	send(t, server, binary(t, assignmentOf("a", "r")))
	m, err := next(t, agent).server()
	if err != nil || m.GetAssignment().GetUrl() != "wss"+strings.TrimPrefix(secure.URL, "https") {
		t.Errorf("the assignment leads to %q, %v", m.GetAssignment().GetUrl(), err)
	}
	stranger := open(t, secure.URL, func(c *Config) { c.patience = 50 * time.Millisecond })
	conn, resp, err := websocket.DefaultDialer.Dial(stranger.agentURL+"/agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	defer func() { _ = conn.Close() }()
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
		t.Errorf("an unknown authority must not be trusted: %v", err)
	}
	if !strings.Contains(stranger.logs.String(), "its certificate is signed by an unknown authority") {
		t.Errorf("the log does not say why:\n%s", stranger.logs)
	}
}

// TestStrangers: clients that are not agents, and frames that are too large.
func TestStrangers(t *testing.T) {
	u := newUpstream(t)
	g := open(t, u.URL, nil)
	t.Run("Nonsense", func(t *testing.T) {
		agent, server := dialPair(t, u, g.agentURL)
		for _, f := range []frame{text("hello"), {websocket.BinaryMessage, []byte{0xff, 0xff}}, text("{}"), text("null"), {websocket.BinaryMessage, nil}} {
			send(t, agent, f)
			if got := next(t, server); !bytes.Equal(got.body, f.body) || got.kind != f.kind {
				t.Errorf("%q arrived as %q", f.body, got.body)
			}
		}
		_ = agent.Close()
		trial.Eventually(t, "the log reports the stranger", func() bool { return strings.Contains(g.logs.String(), "is this an agent?") })
	})
	for name, fromAgent := range map[string]bool{"HugeFromAgent": true, "HugeFromLiveKit": false} {
		t.Run(name, func(t *testing.T) {
			agent, server := dialPair(t, u, g.agentURL)
			from, to := agent, server
			if !fromAgent {
				from, to = server, agent
			}
			_ = from.WriteMessage(websocket.BinaryMessage, make([]byte, maxFrame+1)) // it may be cut off
			_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _, err := to.ReadMessage()
			if err == nil {
				t.Error("a frame that is too large must not arrive")
			}
			trial.Eventually(t, "the log reports it", func() bool { return strings.Contains(g.logs.String(), "a frame exceeds call-gate's limit") })
		})
	}
	t.Run("CloseCodes", func(t *testing.T) {
		agent, server := dialPair(t, u, g.agentURL)
		_ = server.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "go away"), time.Now().Add(time.Second))
		_ = agent.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _, err := agent.ReadMessage()
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != 4001 || closed.Text != "go away" {
			t.Errorf("LiveKit's words must reach the agent; got %v", err)
		}
	})
	if a := g.calls(t); a.Calls != 0 {
		t.Errorf("%+v", a)
	}
}

// TestEndAmongFrames has an agent close its websocket while LiveKit sends: the log has the
// agent's close text. LiveKit may not get it if its own frames were not read.
func TestEndAmongFrames(t *testing.T) {
	u := newUpstream(t)
	g := open(t, u.URL, nil)
	const rounds = 50
	for range rounds {
		agent, server := dialPair(t, u, g.agentURL)
		var sends sync.WaitGroup
		sends.Go(func() {
			for server.WriteMessage(websocket.TextMessage, []byte("a frame")) == nil {
			}
		})
		if _, _, err := agent.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		if err := agent.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "good-bye"), time.Now().Add(10*time.Second)); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, _, err := server.ReadMessage(); err == nil {
			t.Error("LiveKit gets something other than the end")
		}
		_ = server.Close()
		sends.Wait()
		_ = agent.Close()
	}
	trial.Eventually(t, "every websocket has ended", func() bool { return strings.Count(g.logs.String(), "A websocket ended") == rounds })
	if told := strings.Count(g.logs.String(), "the agent ended the websocket: close 4001"); told != rounds {
		t.Errorf("the log gives %d of %d ends their reason", told, rounds)
	}
}

// TestNoGoroutineStays opens and closes a thousand websockets.
func TestNoGoroutineStays(t *testing.T) {
	u := newUpstream(t)
	g := open(t, u.URL, nil)
	register := binary(t, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{}}})
	round := func(i int) {
		agent, server := dialPair(t, u, g.agentURL)
		send(t, agent, register)
		next(t, server)
		if i%2 == 0 {
			_ = agent.Close()
			_, _, _ = server.ReadMessage()
		} else {
			_ = server.Close()
			_, _, _ = agent.ReadMessage()
		}
		_ = agent.Close()
		_ = server.Close()
	}
	round(0)
	trial.Eventually(t, "the first websocket is gone", func() bool { return g.calls(t).Workers == 0 })
	before := runtime.NumGoroutine()
	for i := range 1000 {
		round(i)
	}
	trial.Eventually(t, "the last websocket is gone", func() bool { return g.calls(t).Workers == 0 })
	http.DefaultClient.CloseIdleConnections()
	trial.Eventually(t, "the goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before })
	if a := g.calls(t); a.Calls != 0 {
		t.Errorf("%+v", a)
	}
}

// TestWorkersComeAndGo: several workers of one pod accept and end jobs at once, lose their websockets
// and reconnect, with an order to drain in the middle. The count matches what was
// assigned, and nothing is accepted after the order.
func TestWorkersComeAndGo(t *testing.T) {
	u := newUpstream(t)
	g := open(t, u.URL, nil)
	duration := 4 * time.Second
	if testing.Short() {
		duration = time.Second
	}
	var assigned, ended atomic.Int64
	var ordered atomic.Bool
	var late atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var all sync.WaitGroup
	var dialing sync.Mutex // upstream websockets are matched by their order
	for w := range 4 {
		all.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				dialing.Lock()
				agent, server := dialPair(t, u, g.agentURL)
				dialing.Unlock()
				send(t, agent, binary(t, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{}}}))
				var worker sync.WaitGroup
				worker.Go(func() { playWorker(agent) })
				for i := 0; i < 50 && ctx.Err() == nil; i++ {
					id := fmt.Sprintf("%d-%d-%d", w, round, i)
					if i%3 == 0 {
						id += "-stays" // this job outlives its websocket
					}
					before := ordered.Load()
					send(t, server, binary(t, offerOf(id, id)))
					taken := hear(t, server, func(m *livekit.WorkerMessage) bool { return m.GetAvailability().GetJobId() == id })
					if !taken.GetAvailability().GetAvailable() {
						continue
					}
					if before {
						late.Add(1)
					}
					send(t, server, binary(t, assignmentOf(id, id)))
					heard := hear(t, server, func(m *livekit.WorkerMessage) bool { return m.GetUpdateJob().GetJobId() == id })
					assigned.Add(1)
					if heard.GetUpdateJob().GetStatus() == livekit.JobStatus_JS_SUCCESS {
						ended.Add(1)
					}
				}
				_ = agent.Close()
				worker.Wait()
				_ = server.Close()
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			g.calls(t)
			time.Sleep(time.Millisecond)
		}
	})
	time.Sleep(duration / 2)
	if n := assigned.Load(); n == 0 {
		t.Error("no job was assigned before the order")
	}
	g.book.drain("drain now")
	ordered.Store(true)
	all.Wait()
	if late.Load() != 0 {
		t.Errorf("%d jobs were accepted after the order", late.Load())
	}
	a := g.calls(t)
	if want := int(assigned.Load() - ended.Load()); a.Running != want || a.Accepted != 0 || a.Drained != (want == 0) {
		t.Errorf("%d assigned, %d ended, and the gate says %d running, %d accepted", assigned.Load(), ended.Load(), a.Running, a.Accepted)
	}
	t.Logf("%d jobs, %d ended", assigned.Load(), ended.Load())
}

// playWorker accepts every offer. Jobs end at once, except those that stay.
func playWorker(agent *websocket.Conn) {
	reply := func(m *livekit.WorkerMessage) {
		if f, err := write(websocket.BinaryMessage, m); err == nil {
			_ = agent.WriteMessage(f.kind, f.body)
		}
	}
	for {
		_, body, err := agent.ReadMessage()
		if err != nil {
			return
		}
		m, err := frame{kind: websocket.BinaryMessage, body: body}.server()
		if err != nil {
			return
		}
		switch m := m.Message.(type) {
		case *livekit.ServerMessage_Availability:
			reply(yes(m.Availability.GetJob().GetId()))
		case *livekit.ServerMessage_Assignment:
			id, status := m.Assignment.GetJob().GetId(), livekit.JobStatus_JS_SUCCESS
			if strings.HasSuffix(id, "-stays") {
				status = livekit.JobStatus_JS_RUNNING
			}
			reply(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: &livekit.UpdateJobStatus{JobId: id, Status: status}}})
		}
	}
}

// hear reads LiveKit's incoming messages until the expected one.
func hear(t testing.TB, server *websocket.Conn, wanted func(*livekit.WorkerMessage) bool) *livekit.WorkerMessage {
	t.Helper()
	for {
		if m, err := next(t, server).worker(); err == nil && wanted(m) {
			return m
		}
	}
}

// TestAskersKeepTheWorker: even if many connections to the status port send nothing, the
// gate's memory stays small, requests are answered, and the worker's websocket stays open.
func TestAskersKeepTheWorker(t *testing.T) {
	const idle, most = 6000, 8 << 20 // bytes
	p := newPair(t, nil)
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	p.gate.calls(t)
	before := memory()
	for i := range idle {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.gate.status, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // the other end may have closed it
		if i%500 == 0 {
			p.gate.calls(t)
			send(t, p.agent, frame{kind: websocket.BinaryMessage, body: []byte("ping")})
			if got := next(t, p.server); string(got.body) != "ping" {
				t.Fatalf("LiveKit got %q", got.body)
			}
		}
	}
	p.gate.calls(t)
	if after := memory(); after > before+most {
		t.Errorf("memory went from %d to %d KiB for %d connections", before>>10, after>>10, idle)
	}
}
