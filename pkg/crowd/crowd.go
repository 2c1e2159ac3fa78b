// SPDX-License-Identifier: Apache-2.0

// Package crowd runs HTTP servers and limits their connections, so that nobody who can
// reach a port can exhaust a program's memory or block others.
//
// It does not know what is served or who is authorized. Limiting the cost of a request is
// up to the handler.
package crowd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve serves the listener until ctx is done, and then ends as Until does. It is for small
// requests and answers. There are at most the given number of connections. If one more
// arrives, a connection of the client with the most is closed: the one that has waited
// longest without a request or, if there is none, the one whose request has taken longest.
// So a client with a request gets through many idle connections.
func Serve(ctx context.Context, l net.Listener, handler http.Handler, most int, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	return Until(ctx, server, bound(server, l, most), log)
}

// Until runs a server on a listener until ctx is done. Requests that are being answered then
// have a few seconds; connections that remain after that are streaming and are closed. The
// server's own messages, such as a handler's panic, are logged.
func Until(ctx context.Context, server *http.Server, l net.Listener, log *slog.Logger) error {
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close() // the remaining connections are streaming
		}
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve on %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}

// patience is how long a stopping server waits for its answers.
const patience = 3 * time.Second

// bound makes a server track which of its connections have a request, and returns a
// listener that accepts the given number of connections. It sets the server's Handler and
// ConnContext.
func bound(server *http.Server, l net.Listener, most int) net.Listener {
	c := &crowd{Listener: l, most: most, members: map[*member]bool{}, of: map[string]int{}}
	inner := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m, ok := r.Context().Value(memberKey{}).(*member); ok {
			c.asks(m, true)
			defer c.asks(m, false)
		}
		inner.ServeHTTP(w, r)
	})
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, memberKey{}, conn)
	}
	return c
}

type memberKey struct{}

// crowd is a listener that knows its connections.
type crowd struct {
	net.Listener

	most int

	mu      sync.Mutex
	turn    uint64
	members map[*member]bool
	of      map[string]int // connections by address
}

// member is one connection.
type member struct {
	net.Conn

	crowd *crowd
	from  string
	since uint64 // the turn at which it began to wait, or to be answered
	asks  bool   // one of its requests is being answered
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	m := &member{Conn: conn, crowd: c, from: host}
	if out := c.enter(m); out != nil {
		_ = out.Close() // it has been removed already
	}
	return m, nil
}

// enter adds a connection and returns the one that has to be closed for it, if any.
func (c *crowd) enter(m *member) (out *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.members) >= c.most {
		for other := range c.members {
			if out == nil || c.sooner(other, out) {
				out = other
			}
		}
		c.forget(out)
	}
	c.turn++
	m.since = c.turn
	c.members[m] = true
	c.of[m.from]++
	return out
}

// sooner reports whether a is closed before b.
func (c *crowd) sooner(a, b *member) bool {
	switch {
	case c.of[a.from] != c.of[b.from]:
		return c.of[a.from] > c.of[b.from]
	case a.asks != b.asks:
		return b.asks
	default:
		return a.since < b.since
	}
}

func (c *crowd) asks(m *member, asks bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	m.asks, m.since = asks, c.turn
}

func (c *crowd) forget(m *member) {
	if !c.members[m] {
		return
	}
	delete(c.members, m)
	if c.of[m.from]--; c.of[m.from] == 0 {
		delete(c.of, m.from)
	}
}

// Close implements net.Conn.
func (m *member) Close() error {
	m.crowd.mu.Lock()
	m.crowd.forget(m)
	m.crowd.mu.Unlock()
	return m.Conn.Close()
}
