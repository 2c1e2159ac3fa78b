// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/callguard/callguard/pkg/realtime"
	"github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/test/trial"
)

const key = "sk-proj-in-no-log"

// TestProxy: the program reaches Azure OpenAI, under a name that only a proxy can resolve,
// through the proxy in its environment.
func TestProxy(t *testing.T) {
	var upgrader websocket.Upgrader
	asked := make(chan *http.Request, 64)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Clone(context.WithoutCancel(r.Context())):
		default:
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // it has ended
		_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"session.created"}`))
		_, _, _ = conn.ReadMessage()
	}))
	defer api.Close()
	var through atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			http.Error(w, "not for this proxy", http.StatusForbidden)
			return
		}
		to, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", api.Listener.Addr().String())
		if err != nil {
			http.Error(w, "nobody there", http.StatusBadGateway)
			return
		}
		defer to.Close() //nolint:errcheck // it has ended
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // it has ended
		through.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(conn, to) }()
		_, _ = io.Copy(to, in)
	}))
	defer proxy.Close()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	keyFile, caFile := filepath.Join(folder, "api-key"), filepath.Join(folder, "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}) // for example.com, too
	if err := errors.Join(os.WriteFile(keyFile, []byte(key), 0o600), os.WriteFile(caFile, ca, 0o600)); err != nil {
		t.Fatal(err)
	}
	said := &trial.Log{}
	probe := exec.CommandContext(t.Context(), self, "--base-url=https://example.com/", "--model=voice-1", "--auth-header=api-key",
		"--key-file="+keyFile, "--ca-file="+caFile, "--calls-url=", "--bind-address=127.0.0.1:0", "--log-level=debug")
	probe.Env = append(os.Environ(), asProbe+"=1", "HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "no_proxy=")
	probe.Stdout, probe.Stderr = said, said
	if err := probe.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = probe.Process.Signal(os.Interrupt) // it may have ended
		_ = probe.Wait()
	})
	within(t, said, "a session opens", func() bool { return strings.Contains(said.String(), "The Realtime API accepts sessions") })
	if through.Load() == 0 {
		t.Error("the session did not go through the proxy")
	}
	if r := <-asked; r.URL.String() != "/openai/v1/realtime?model=voice-1" || r.Header.Get("Api-Key") != key || r.Header.Get("Authorization") != "" {
		t.Errorf("asked for %s with headers %v; want Azure's path and header", r.URL, r.Header)
	}
	if strings.Contains(said.String(), key) {
		t.Errorf("the key is in the log: %s", said)
	}
}

// TestProgram runs the program between an API that refuses every key and a gate: the pod is
// ready exactly as long as it holds calls, or their number is unknown.
func TestProgram(t *testing.T) {
	var upgrader websocket.Upgrader
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // it has ended
		bye := websocket.FormatCloseMessage(3000, "invalid_request_error.invalid_api_key")
		_ = conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
		_, _, _ = conn.ReadMessage()
	}))
	defer api.Close()
	var calls atomic.Int64
	calls.Store(2)
	sidecar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := calls.Load(); r.URL.Path == gate.Path && n >= 0 {
			_, _ = fmt.Fprintf(w, `{"pod":"uid","known":true,"calls":%d}`, n)
			return
		}
		http.NotFound(w, r)
	}))
	defer sidecar.Close()

	folder := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{
		"--base-url=" + api.URL + "/v1", "--model=gpt-realtime-2.1",
		"--key-file=" + file("api-key", []byte(key+"\n")),
		"--ca-file=" + file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})),
		"--interval=10s", "--bind-address=127.0.0.1:0", "--calls-url=" + sidecar.URL + gate.Path, "--log-level=debug",
	}
	said := &trial.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Main(ctx, args, func(name string) string { return map[string]string{"POD_UID": "uid"}[name] }, said)
	}()

	var url string
	within(t, said, "it says where it listens", func() bool {
		if found := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(said.String()); found != nil {
			url = "http://" + found[1]
		}
		return url != ""
	})
	get := func() (int, realtime.Answer) {
		resp, err := http.Get(url + realtime.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a realtime.Answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, a
	}
	within(t, said, "it is held by two calls", func() bool {
		code, a := get()
		return code == 200 && a.Class == realtime.Fatal && a.Reason == realtime.KeyRejected && a.Held && a.Calls != nil && *a.Calls == 2
	})
	calls.Store(0)
	within(t, said, "its calls are over, so it is not ready", func() bool {
		code, a := get()
		return code == 503 && a.Class == realtime.Fatal && a.Calls != nil && *a.Calls == 0
	})
	calls.Store(-1)
	within(t, said, "the gate is silent, so it is held again", func() bool {
		code, a := get()
		return code == 200 && a.Held && a.Calls == nil && strings.Contains(a.Why, "it is unknown")
	})
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it did not stop within 10 s")
	}
	if strings.Contains(said.String(), key) {
		t.Errorf("the key is in the log: %s", said)
	}
}

func within(t *testing.T, said *trial.Log, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within 60 s: %s\n%s", what, said)
		}
	}
}
