// SPDX-License-Identifier: Apache-2.0

package crowd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/test/trial"
)

// TestWhoMakesRoom fills a crowd of four and lets one more in.
func TestWhoMakesRoom(t *testing.T) {
	type one struct {
		name, from string
		asks       bool
	}
	cases := map[string]struct {
		reason string
		in     []one
		want   string
	}{
		"Room":      {reason: "Nobody has to leave while there is room.", in: []one{{"1", "a", false}, {"2", "a", false}}},
		"Oldest":    {reason: "The one that has waited longest.", in: []one{{"1", "a", false}, {"2", "a", false}, {"3", "a", false}, {"4", "a", false}}, want: "1"},
		"Asked":     {reason: "Not one that is being answered.", in: []one{{"1", "a", true}, {"2", "a", false}, {"3", "a", false}, {"4", "a", false}}, want: "2"},
		"AllAsk":    {reason: "If all are, the one that has been for longest.", in: []one{{"1", "a", true}, {"2", "a", true}, {"3", "a", true}, {"4", "a", true}}, want: "1"},
		"Neighbour": {reason: "One of whoever has the most: a neighbour's crowd is not another's.", in: []one{{"1", "b", false}, {"2", "a", true}, {"3", "a", true}, {"4", "a", true}}, want: "2"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := &crowd{most: 4, members: map[*member]bool{}, of: map[string]int{}}
			names := map[*member]string{}
			for _, o := range tc.in {
				m := &member{crowd: c, from: o.from}
				names[m] = o.name
				if out := c.enter(m); out != nil {
					t.Fatalf("%s made room", names[out])
				}
				if o.asks {
					c.asks(m, true)
				}
			}
			out := c.enter(&member{crowd: c, from: "c"})
			if names[out] != tc.want || len(c.members) > 4 {
				t.Errorf("%s %q makes room, %d are left; want %q", tc.reason, names[out], len(c.members), tc.want)
			}
		})
	}
}

// TestIdleConnectionsKeepNobodyOut: six thousand connections that send nothing, or half a
// request, take little memory; meanwhile requests are answered, on a kept connection or a new
// one.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	const idle, most = 6000, 64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }),
		ReadHeaderTimeout: 30 * time.Second,
	}
	served := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { served <- Until(ctx, server, bound(server, listener, most), slog.New(slog.DiscardHandler)) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	ask := func(client *http.Client) error {
		resp, err := client.Get("http://" + listener.Addr().String())
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != "well" {
			return fmt.Errorf("%q, %w", body, err)
		}
		return nil
	}
	kept := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	each := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	defer kept.CloseIdleConnections()

	before, goroutines := memory(), runtime.NumGoroutine()
	for i := range idle {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "GET / HTT")
		}
		defer func() { _ = conn.Close() }() // the other end may have closed it
		if i%100 != 0 {
			continue
		}
		for name, client := range map[string]*http.Client{"a connection that is kept": kept, "one for each question": each} {
			if err := ask(client); err != nil {
				t.Errorf("after %d idle connections, on %s: %v", i, name, err)
			}
		}
	}
	trial.Eventually(t, "all but so many connections are gone", func() bool { return runtime.NumGoroutine() < goroutines+3*most })
	if after := memory(); after > before+8<<20 {
		t.Errorf("memory went from %d to %d KiB for %d connections", before>>10, after>>10, idle)
	}
}

func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func TestConnectionsAreForgotten(t *testing.T) {
	c := &crowd{most: 2, members: map[*member]bool{}, of: map[string]int{}}
	for range 10 {
		near, far := net.Pipe()
		m := &member{Conn: near, crowd: c, from: "a"}
		if out := c.enter(m); out != nil {
			t.Fatal("there is room")
		}
		_, _ = m.Close(), m.Close()
		_ = far.Close()
	}
	if diff := cmp.Diff(map[string]int{}, c.of); diff != "" || len(c.members) != 0 {
		t.Errorf("%d are still known: %s", len(c.members), diff)
	}
}

// TestServeEnds: when it is told to end, it lets a request in progress finish, cuts off
// streaming clients, and accepts no more connections.
func TestServeEnds(t *testing.T) {
	for name, streams := range map[string]bool{"Answering": false, "Streaming": true} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			asked, told := make(chan struct{}), make(chan struct{})
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() {
				served <- Serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					close(asked)
					<-told
					if streams {
						<-r.Context().Done()
					}
					_, _ = io.WriteString(w, "well")
				}), 4, slog.New(slog.DiscardHandler))
			}()
			answer := make(chan string, 1)
			go func() {
				resp, err := http.Get("http://" + listener.Addr().String())
				if err != nil {
					answer <- ""
					return
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				answer <- string(body)
			}()
			<-asked
			stop()
			close(told)
			if got := <-answer; (got == "well") == streams {
				t.Errorf("the answer is %q", got)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
			if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
				_ = conn.Close()
				t.Error("it accepts connections after its end")
			}
		})
	}
}
