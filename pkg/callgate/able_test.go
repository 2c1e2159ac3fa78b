// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/test/trial"
)

// TestAble checks the reported ability of a pod, and whether it is ready.
func TestAble(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	type said struct {
		ability call.Ability
		since   int
		ready   bool
		why     string // a part of the sentence
	}
	cases := map[string]struct {
		reason string
		do     func(a *able)
		calls  int
		at     int
		want   said
	}{
		"Born":        {reason: "Ready is not able: no worker has come yet.", do: func(*able) {}, at: 1, want: said{call.NoWorker, 0, false, "no worker has ever connected"}},
		"Proxy":       {reason: "A proxy variable makes Python's worker bypass the gate, and nothing else reports it.", do: func(*able) {}, at: 600, want: said{call.NoWorker, 0, false, "http_proxy=None"}},
		"Connected":   {reason: "That a worker sends its registration is no evidence.", do: func(a *able) { a.fails(call.Registering, 0, at(5)) }, at: 6, want: said{call.Registering, 5, false, "LiveKit has not registered it"}},
		"Registered":  {reason: "LiveKit's answer is.", do: func(a *able) { a.fails(call.Registering, 0, at(5)); a.registers(1, at(6)) }, at: 7, want: said{call.Able, 6, true, ""}},
		"Refused":     {reason: "A wrong key.", do: func(a *able) { a.fails(call.Refused, 401, at(5)); a.fails(call.Refused, 401, at(9)) }, at: 10, want: said{call.Refused, 5, false, "refuses the worker's key (401)"}},
		"NotLiveKit":  {reason: "A wrong URL.", do: func(a *able) { a.fails(call.NotLiveKit, 404, at(5)) }, at: 6, want: said{call.NotLiveKit, 5, false, "404 Not Found"}},
		"Unreachable": {reason: "No LiveKit.", do: func(a *able) { a.fails(call.Unreachable, 0, at(5)) }, at: 6, want: said{call.Unreachable, 5, false, "cannot be reached"}},
		"Blip":        {reason: "A worker that lost its websocket is back in seconds.", do: func(a *able) { a.registers(1, at(6)); a.loses(1, at(20)) }, at: 49, want: said{call.Gone, 20, true, "went at 2026-01-01T12:00:20Z"}},
		"GoneForGood": {reason: "After 30 s it is not.", do: func(a *able) { a.registers(1, at(6)); a.loses(1, at(20)) }, at: 50, want: said{call.Gone, 20, false, "went at 2026-01-01T12:00:20Z"}},
		"Outage":      {reason: "The 30 s count from the last worker, whatever comes after.", do: func(a *able) { a.registers(1, at(6)); a.loses(1, at(20)); a.fails(call.Unreachable, 0, at(45)) }, at: 50, want: said{call.Unreachable, 45, false, "cannot be reached"}},
		"Talks":       {reason: "LiveKit's blip must not take a talking pod out of Services.", do: func(a *able) { a.registers(1, at(6)); a.loses(1, at(20)) }, calls: 1, at: 500, want: said{call.Gone, 20, true, "went at"}},
		"OneOfTwo": {reason: "One worker is enough.", do: func(a *able) {
			a.registers(1, at(6))
			a.registers(2, at(7))
			a.loses(1, at(20))
			a.fails(call.Refused, 401, at(21))
		}, at: 90, want: said{call.Able, 6, true, ""}},
		"NeverTaken": {reason: "The end of a websocket without a registered worker loses nothing.", do: func(a *able) { a.registers(1, at(6)); a.loses(2, at(20)) }, at: 90, want: said{call.Able, 6, true, ""}},
		"Back":       {reason: "It is able again.", do: func(a *able) { a.registers(1, at(6)); a.loses(1, at(20)); a.registers(2, at(60)) }, at: 90, want: said{call.Able, 60, true, ""}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := newAble("https://livekit.example.com", began, prometheus.NewRegistry())
			tc.do(a)
			var answer gate.Answer
			a.tell(&answer)
			_, ready := a.ready(tc.calls, at(tc.at))
			if got := answer.Ability(); got != tc.want.ability || !answer.AbleSince.Equal(at(tc.want.since)) || ready != tc.want.ready || !strings.Contains(answer.UnableWhy, tc.want.why) {
				t.Errorf("%s\n%s since %s, ready %t: %s; want %+v", tc.reason, got, answer.AbleSince, ready, answer.UnableWhy, tc.want)
			}
			if (answer.UnableWhy == "") != (tc.want.ability == call.Able) {
				t.Errorf("a reason is given exactly while there is one: %q", answer.UnableWhy)
			}
		})
	}
}

func (o *opened) readyz(t testing.TB) (status int, body string) {
	t.Helper()
	resp, err := http.Get(o.status + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw)
}

func registration(t testing.TB) frame {
	return binary(t, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{}}})
}

func registered(t testing.TB) frame {
	f, err := write(websocket.BinaryMessage, &livekit.ServerMessage{Message: &livekit.ServerMessage_Register{Register: &livekit.RegisterWorkerResponse{WorkerId: "AW_1"}}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestReadyWhenRegistered: a worker connects, registers and leaves, with the frames that
// LiveKit and an agent exchange.
func TestReadyWhenRegistered(t *testing.T) {
	p := newPair(t, nil)
	expect := func(what string, status int, able bool, workers int) {
		t.Helper()
		trial.Eventually(t, what, func() bool {
			got, _ := p.gate.readyz(t)
			a := p.gate.calls(t)
			return got == status && a.Able != nil && *a.Able == able && a.Registered == workers
		})
	}
	expect("a websocket alone is not enough", http.StatusServiceUnavailable, false, 0)
	send(t, p.agent, registration(t))
	next(t, p.server)
	expect("nor is the worker's registration", http.StatusServiceUnavailable, false, 0)
	if _, why := p.gate.readyz(t); !strings.Contains(why, "LiveKit has not registered it") {
		t.Errorf("the probe gets %q", why)
	}
	send(t, p.server, registered(t))
	next(t, p.agent)
	expect("LiveKit's answer is", http.StatusOK, true, 1)
	_ = p.agent.Close()
	expect("a worker that has just gone leaves the pod ready", http.StatusOK, false, 0)
	if a := p.gate.calls(t); a.Unable != call.Gone {
		t.Errorf("%+v", a)
	}
	if _, ready := p.gate.able.ready(0, time.Now().Add(readyFor)); ready {
		t.Error("it is ready for 30 s, not forever")
	}
	if resp, err := http.Get(p.gate.status + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the gate is well all the same: %v", err)
	} else {
		resp.Body.Close()
	}
}

// sdk connects as a worker of LiveKit Agents does: it counts the consecutive attempts that
// opened no websocket, and gives up at maxRetry.
type sdk struct {
	name string
	// first is the pause after a websocket that opened and closed, in seconds: Python counts
	// the failure after it has computed the pause, Node before.
	first int
}

const maxRetry = 16

// delay returns the pause before the next attempt after a number of failures in a row, in
// seconds.
func (s sdk) delay(failures int) int { return min((failures-1)*2+s.first, 10) }

// run retries until it is registered, or gives up. It scales each second to this length.
func (s sdk) run(url string, second time.Duration, stop <-chan struct{}) error {
	failures := 0
	for {
		conn, resp, err := websocket.DefaultDialer.Dial(url+"/agent", http.Header{"Authorization": {"Bearer good"}})
		if resp != nil {
			resp.Body.Close()
		}
		if err == nil {
			failures = 0
			_ = conn.WriteMessage(websocket.BinaryMessage, nil) // its registration
			_, _, err = conn.ReadMessage()
			_ = conn.Close()
			if err == nil {
				return nil
			}
		}
		if failures >= maxRetry {
			return fmt.Errorf("gave up: %w", err)
		}
		failures++
		select {
		case <-stop:
			return errors.New("stopped")
		case <-time.After(time.Duration(s.delay(failures)) * second):
		}
	}
}

// TestLiveKitAwayForLong: LiveKit is away for longer than workers retry, with the SDKs'
// own rules at a hundredth of their time. Without the gate's patience Python would never
// register again.
func TestLiveKitAwayForLong(t *testing.T) {
	const second = 10 * time.Millisecond
	for _, s := range []sdk{{name: "Python", first: 0}, {name: "Node", first: 2}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			address := reserve(t)
			g := open(t, "ws://"+address, func(c *Config) { c.patience = 10 * second })
			stop, done := make(chan struct{}), make(chan error, 1)
			defer close(stop)
			go func() { done <- s.run(g.agentURL, second, stop) }()

			away := time.NewTimer(200 * second)
			defer away.Stop()
			select {
			case err := <-done:
				t.Fatalf("the worker ended while LiveKit was away: %v", err)
			case <-away.C:
			}
			if a := g.calls(t); a.Unable != call.Unreachable || a.Workers != 0 || a.Calls != 0 {
				t.Errorf("while LiveKit is away the gate reports %+v", a)
			}
			if status, why := g.readyz(t); status != http.StatusServiceUnavailable || !strings.Contains(why, "cannot be reached") {
				t.Errorf("%d %s", status, why)
			}
			if !g.book.drain("drain 2026-01-02T15:04:05Z") || !g.calls(t).Drained {
				t.Errorf("the order counts meanwhile: %+v", g.calls(t))
			}
			back := serveAt(t, address)
			since := time.Now()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			t.Logf("registered %s after LiveKit came back, of %d dials", time.Since(since), back.Load())
		})
	}
}

// TestNobodyWaitsForARefusal: a worker that LiveKit refuses is told at once, and gives up
// as it would without a gate.
func TestNobodyWaitsForARefusal(t *testing.T) {
	g := open(t, newUpstream(t).URL, nil)
	begun := time.Now()
	_, resp, err := websocket.DefaultDialer.Dial(g.agentURL+"/agent", http.Header{"Authorization": {"Bearer bad"}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	if took := time.Since(begun); took > holdFor/2 {
		t.Errorf("it took %s", took)
	}
}

// TestHeldEndsWithTheGate: a held worker does not keep the gate from closing, and the gate
// notices when a held worker leaves.
func TestHeldEndsWithTheGate(t *testing.T) {
	g := open(t, "ws://"+reserve(t), func(c *Config) { c.patience = time.Hour })
	hold := func() *websocket.Conn {
		conn, resp, err := websocket.DefaultDialer.Dial(g.agentURL+"/agent", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return conn
	}
	gone, kept := hold(), hold()
	_ = gone.Close()
	g.stop()
	_ = kept.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := kept.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
		t.Errorf("got %v", err)
	}
	_ = kept.Close()
}

// TestHeldTogether: when one worker gets through, no worker is held any longer.
func TestHeldTogether(t *testing.T) {
	g := open(t, "ws://"+reserve(t), func(c *Config) { c.patience = time.Hour })
	conn, resp, err := websocket.DefaultDialer.Dial(g.agentURL+"/agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	defer func() { _ = conn.Close() }()
	trial.Eventually(t, "it is kept", func() bool {
		g.outage.mu.Lock()
		defer g.outage.mu.Unlock()
		return g.outage.over != nil
	})
	g.outage.end()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
		t.Errorf("got %v", err)
	}
}

// TestPause: the longer LiveKit has been away, the less often the gate tries it.
func TestPause(t *testing.T) {
	g := &Gate{patience: holdFor}
	for away, want := range map[time.Duration]time.Duration{
		0: time.Second, 5 * time.Second: time.Second, 50 * time.Second: 5 * time.Second, time.Hour: 10 * time.Second,
	} {
		if got := g.pause(time.Now().Add(-away)); got < want*8/10 || got > want*12/10 {
			t.Errorf("away for %s: %s; want about %s", away, got, want)
		}
	}
}

// TestNothingForeign: everything around the gate sends a token, a room named by a
// telephone number, and a secret wherever it can. None of it is in the log, in an answer
// to clients outside the pod, or in a metric.
func TestNothingForeign(t *testing.T) {
	const token, number, secret = "eyJhbGciOiJIUzI1NiJ9.planted.token", "+4930123456789", "planted-secret"
	planted := token + " " + number + " " + secret
	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = garbage.Close() })
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 2xx "+planted+"\r\n\r\n")
			_ = c.Close()
		}
	}()
	answers := func(status int, phrase string) string {
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
				_, _ = c.Read(make([]byte, 64<<10))
				_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nX-Told: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, phrase, planted, len(planted), planted)
				_ = c.Close()
			}
		}()
		return "ws://" + l.Addr().String()
	}
	u := newUpstream(t)
	upstreams := map[string]string{
		"LiveKitRefuses": answers(401, "invalid token "+planted), "Forbidden": answers(403, planted), "Away": answers(503, planted),
		"Teapot": answers(418, planted), "Page": answers(200, planted), "Garbage": "ws://" + garbage.Addr().String(),
		"Down": "ws://" + reserve(t), "NoTLS": "wss" + strings.TrimPrefix(answers(200, planted), "ws"), "LiveKit": u.URL,
	}
	for name, upstream := range upstreams {
		t.Run(name, func(t *testing.T) {
			g := open(t, upstream, func(c *Config) {
				c.patience, c.APIKey, c.APISecret = 20*time.Millisecond, "key", secret
				c.Order = filepath.Join(t.TempDir(), "annotations")
			})
			var told strings.Builder
			query := "?worker_token=" + token + "&room=" + number
			conn, resp, err := websocket.DefaultDialer.Dial(g.agentURL+"/agent"+query, http.Header{"Authorization": {"Bearer good"}, "X-Secret": {planted}})
			switch {
			case err == nil && name == "LiveKit":
				server := <-u.conns
				send(t, conn, frame{websocket.TextMessage, []byte(`{"register":{"version":1,"x":"` + planted + `"`)})
				next(t, server)
				send(t, server, frame{websocket.TextMessage, []byte(planted)})
				next(t, conn)
				send(t, server, binary(t, offerOf("AJ_1", number)))
				next(t, conn)
				send(t, conn, binary(t, yes("AJ_1")))
				next(t, server)
				send(t, server, binary(t, assignmentOf("AJ_1", number)))
				next(t, conn)
				_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, planted), time.Now().Add(time.Second))
				_, _, _ = server.ReadMessage()
				_ = server.Close()
				trial.Eventually(t, "the log tells the end", func() bool { return strings.Contains(g.logs.String(), "close 4001") })
			case err == nil:
				_, _, _ = conn.ReadMessage()
				_ = conn.Close()
			default:
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				fmt.Fprintln(&told, resp.Status, resp.Header, string(body))
			}
			// The rest of LiveKit's API is passed on unchanged, except what the gate itself
			// answers.
			if resp, err := http.Get("http" + strings.TrimPrefix(g.agentURL, "ws") + "/rtc" + query); err == nil {
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if strings.Contains(string(body), "call-gate") {
					told.Write(body)
				}
			}
			for _, path := range []string{gate.Path, "/readyz", "/metrics"} {
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodGet, path, nil)
				r.RemoteAddr = "10.0.0.9:1"
				g.Status().ServeHTTP(w, r)
				told.WriteString(w.Body.String())
			}
			for _, s := range []string{token, number, secret, "planted"} {
				if strings.Contains(g.logs.String(), s) {
					t.Errorf("%q is in the log:\n%s", s, g.logs)
				}
				if strings.Contains(told.String(), s) {
					t.Errorf("%q is published:\n%s", s, told.String())
				}
			}
		})
	}
}

// reserve returns an address at which nothing listens.
func reserve(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// serveAt is a LiveKit at an address that registers every worker, and counts those that
// dial.
func serveAt(t testing.TB, address string) *atomic.Int64 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int64
	upgrader := websocket.Upgrader{}
	answer := registered(t)
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			_, _ = io.WriteString(w, "OK")
			return
		}
		dials.Add(1)
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		_, _, _ = conn.ReadMessage()
		_ = conn.WriteMessage(answer.kind, answer.body)
		_, _, _ = conn.ReadMessage()
		_ = conn.Close()
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return &dials
}
