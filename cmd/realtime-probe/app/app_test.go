// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
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

// TestProgram runs the program between an API that refuses every key and a gate:
// the pod is ready exactly as long as it holds calls, or nobody knows.
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
		return code == 200 && a.Held && a.Calls == nil && strings.Contains(a.Why, "nobody knows")
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
