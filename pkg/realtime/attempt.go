// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

const (
	maxFrame = 256 << 10 // bytes; session.created has a few thousand
	// maxHeard is the maximum number of bytes read on one connection, including headers and
	// TLS.
	maxHeard = 1 << 20
	// farewell is how long the server may take to answer the close frame.
	farewell = time.Second
)

// line opens websockets, one after the other.
type line struct {
	target

	trust *tls.Config
	proxy func(*http.Request) (*url.URL, error)
}

// attempt opens one session and closes it. It stops at any point when ctx ends.
func (l *line) attempt(ctx context.Context, key string) Outcome {
	o := l.try(ctx, key)
	o.Remedy = l.remedy(o)
	return o
}

func (l *line) try(ctx context.Context, key string) Outcome {
	conn, answer, err := l.dial(ctx, key)
	switch {
	case err == nil:
	case answer != nil:
		defer answer.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(answer.Body, maxHeard)) // as much as there is
		o := answered(answer.StatusCode, body)
		o.RetryAfter = retryAfter(answer.Header.Get("Retry-After"))
		o.azure = byAzure(answer.Header, body)
		return o
	case ctx.Err() != nil:
		return failed(Timeout, "no websocket opened in time")
	default:
		return undialed(err)
	}
	defer conn.Close() //nolint:errcheck // it has ended
	conn.SetReadLimit(maxFrame)
	kind, frame, err := conn.ReadMessage()
	if err != nil {
		if ctx.Err() != nil {
			return failed(Timeout, "the websocket opened, and session.created did not come in time")
		}
		return unread(err)
	}
	o := first(kind, frame)
	leave(conn)
	return o
}

// dial opens the websocket. Everything that is read is limited in size, and reading stops
// when ctx ends.
func (l *line) dial(ctx context.Context, key string) (conn *websocket.Conn, answer *http.Response, err error) {
	// The library's dialer panics if a proxy's status line has no reason phrase.
	defer func() {
		if p := recover(); p != nil {
			conn, answer, err = nil, nil, errors.New("the proxy's answer to CONNECT cannot be read")
		}
	}()
	dialer := websocket.Dialer{
		Proxy:           l.proxy,
		TLSClientConfig: l.trust,
		NetDialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, func() { _ = c.Close() }) // the read that this interrupts returns the error
			return &bounded{Conn: c, left: maxHeard}, nil
		},
	}
	return dialer.DialContext(ctx, l.url.String(), l.with(key))
}

// errTooMuch is the error if the server sends too much.
var errTooMuch = errors.New("the answer is larger than any that a session begins with")

// bounded is a connection from which only a limited number of bytes is read.
type bounded struct {
	net.Conn

	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooMuch
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// undialed returns the outcome of an error before there was an answer.
func undialed(err error) Outcome {
	var (
		untrusted *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     *net.OpError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &untrusted), errors.As(err, &record),
		errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error"):
		return failed(TLS, "TLS could not be agreed on: %v", err)
	case errors.Is(err, errTooMuch):
		return failed(Protocol, "%v", err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return failed(Timeout, "no websocket opened in time")
	default:
		return failed(Unreachable, "no websocket opened: %v", err)
	}
}

// unread returns the outcome of an error instead of the first event.
func unread(err error) Outcome {
	var (
		end     *websocket.CloseError
		network net.Error
	)
	switch {
	case errors.As(err, &end):
		return closed(end.Code, end.Text)
	case errors.Is(err, websocket.ErrReadLimit), errors.Is(err, errTooMuch):
		return failed(Protocol, "the first frame is larger than any event that a session begins with")
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return closed(websocket.CloseAbnormalClosure, "")
	default:
		return failed(Protocol, "the first frame cannot be read: %v", err)
	}
}

// leave closes as RFC 6455 requires: with 1000, and waiting for the other side's close,
// because otherwise the close frame could be lost.
func leave(conn *websocket.Conn) {
	until := time.Now().Add(farewell)
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if conn.WriteControl(websocket.CloseMessage, bye, until) != nil || conn.SetReadDeadline(until) != nil {
		return
	}
	for {
		if _, _, err := conn.NextReader(); err != nil {
			return
		}
	}
}

// retryAfter reads the seconds of a Retry-After header; dates are ignored.
func retryAfter(value string) time.Duration {
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, int(longest/time.Second))) * time.Second
}
