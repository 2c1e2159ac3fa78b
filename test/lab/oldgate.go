// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/fleet"
)

// OldAnswer lists the fields of a gate's answer to GET /calls at 5a0fa9f, before gates reported whether their pod is able.
func OldAnswer() []string {
	return []string{
		"pod", "at", "known", "reason", "used", "calls", "accepted", "running", "ending", "unlisted", "offered",
		"draining", "drained", "workers", "jobs",
	}
}

// oldGate is a gate that answers like an older one.
type oldGate struct {
	fleet.GateProcess

	stop func()
}

// Stop implements fleet.GateProcess.
func (g *oldGate) Stop() error { defer g.stop(); return g.GateProcess.Stop() }

// Kill implements fleet.GateProcess.
func (g *oldGate) Kill() error { defer g.stop(); return g.GateProcess.Kill() }

// playOldGate starts the gate of this checkout behind a proxy that removes newer fields from its answers, and has no GET
// /readyz.
func (l *Lab) playOldGate(pod *corev1.Pod, args, env []string) (fleet.GateProcess, error) {
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, err
	}
	const flag = "--status-address="
	args = slices.Clone(args)
	at := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, flag) })
	if at < 0 {
		return nil, fmt.Errorf("the flags of the gate, %v, lack %s", args, flag)
	}
	address, behind := strings.TrimPrefix(args[at], flag), "127.0.0.1:"+strconv.Itoa(ports[0])
	args[at] = flag + behind
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot answer as an old gate: %w", err)
	}
	process, err := l.gate("")(pod, GateKind, args, env)
	if err != nil {
		_ = listener.Close() // the other error counts
		return nil, err
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	proxy.ModifyResponse, proxy.ErrorLog = asBefore, log.New(io.Discard, "", 0)
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc("/readyz", http.NotFound)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: stopPatience}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) })
	stop := func() { _ = server.Close(); done.Wait() }
	go func() { <-process.Done(); stop() }()
	return &oldGate{process, stop}, nil
}

// asBefore removes the newer fields from an answer to GET /calls.
func asBefore(resp *http.Response) error {
	if resp.Request.URL.Path != "/calls" {
		return nil
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // it was read completely
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	for name := range fields {
		if !slices.Contains(OldAnswer(), name) {
			delete(fields, name)
		}
	}
	if raw, err = json.Marshal(fields); err != nil {
		return err
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	resp.Header.Set("Content-Length", strconv.Itoa(len(raw)))
	return nil
}
