// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/callguard/callguard/test/nodeagent"
	"github.com/callguard/callguard/test/trial"
)

// farAway is the address of a LiveKit that only the proxy can resolve.
const farAway = "livekit.example"

// proxy is an HTTP proxy that connects every address to home, and counts connections.
// answer is its answer to CONNECT.
func proxy(t *testing.T, home, answer string) (url string, through *atomic.Int64) {
	t.Helper()
	through = &atomic.Int64{}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", home
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through.Add(1)
		if r.Method != http.MethodConnect {
			forward.ServeHTTP(w, r)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = from.Close() }()
		if _, err := io.WriteString(from, answer); err != nil || !strings.Contains(answer, " 200 ") {
			return
		}
		to, err := net.Dial("tcp", home)
		if err != nil {
			return
		}
		defer func() { _ = to.Close() }()
		go func() { _, _ = io.Copy(to, from) }()
		_, _ = io.Copy(from, to)
	}))
	t.Cleanup(server.CloseClientConnections) // before Close, which waits for them
	t.Cleanup(server.Close)
	return server.URL, through
}

// TestProxy has a gate that reaches LiveKit only through the proxy in its environment:
// workers register, and the rest of LiveKit's API works.
func TestProxy(t *testing.T) {
	s := startLiveKit(t)
	url, through := proxy(t, strings.TrimPrefix(s.url, "ws://"), "HTTP/1.1 200 OK\r\n\r\n")
	far := *s
	far.url = "ws://" + farAway
	port := freePorts(t, 1)[0]
	t.Setenv("HTTP_PROXY", url)
	g := startGate(t, &far, port)
	startAgent(t, s, g.agentURL, port, nodeagent.Plain)
	trial.Within(t, patience, "the gate has a worker", func() error {
		if a := g.calls(); a.Workers != 1 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	rooms := lksdk.NewRoomServiceClient(g.agentURL, s.key, s.secret)
	if _, err := rooms.ListRooms(t.Context(), &livekit.ListRoomsRequest{}); err != nil {
		t.Errorf("LiveKit's API does not answer through gate and proxy: %v", err)
	}
	if n := through.Load(); n < 2 {
		t.Errorf("%d requests came through the proxy; want the worker's and the API's", n)
	}
}

// TestProxyRefuses has proxies that refuse everybody: the worker keeps trying, the log
// says what to check, and the gate continues.
func TestProxyRefuses(t *testing.T) {
	for name, answer := range map[string]string{
		"Forbidden":       "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"StatusLineAlone": "HTTP/1.1 403\r\n\r\n",
		"NoHTTP":          "220 mail.example ESMTP\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			url, through := proxy(t, "127.0.0.1:9", answer)
			s := &server{url: "ws://" + farAway, key: "key", secret: "a-secret-that-is-long-enough-for-a-token"}
			t.Setenv("HTTP_PROXY", url)
			g := startGate(t, s, freePorts(t, 1)[0])
			trial.Within(t, patience, "an agent is kept", func() error {
				resp, err := http.DefaultTransport.RoundTrip(upgrade(t, g.agentURL))
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusSwitchingProtocols {
					return fmt.Errorf("it hears %s", resp.Status)
				}
				if !g.says(t, "cannot be reached") {
					return errors.New("the gate's log does not say so")
				}
				return nil
			})
			if through.Load() == 0 {
				t.Error("the gate did not ask the proxy")
			}
			g.calls()
		})
	}
}

// upgrade is the request with which a worker opens its websocket.
func upgrade(t *testing.T, gate string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http"+strings.TrimPrefix(gate, "ws")+"/agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(k, v)
	}
	return r
}
