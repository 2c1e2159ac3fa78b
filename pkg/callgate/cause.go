// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/gorilla/websocket"
)

// cause returns in callguard's own words what went wrong on the way to LiveKit or to an
// agent. Errors of libraries repeat what the other side sent, and whole URLs, but tokens
// and telephone numbers do not belong in a log.
func cause(err error) string {
	var (
		closed   *websocket.CloseError
		dns      *net.DNSError
		name     x509.HostnameError
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		noTLS    tls.RecordHeaderError
		alert    tls.AlertError
		errno    syscall.Errno
		timedOut net.Error
		instead  *errAway
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &instead):
		return instead.Error()
	case errors.As(err, &closed):
		return "close " + strconv.Itoa(closed.Code) // its text comes from the other side
	case errors.Is(err, websocket.ErrReadLimit):
		return "a frame is too large"
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return "its name is not known"
		}
		return "its name cannot be looked up"
	case errors.As(err, &name):
		return "its certificate is for another name"
	case errors.As(err, &unknown):
		return "its certificate is signed by an unknown authority"
	case errors.As(err, &invalid):
		return "its certificate is not valid"
	case errors.As(err, &noTLS):
		return "it speaks no TLS"
	case errors.As(err, &alert):
		return "it ends the TLS handshake"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timedOut) && timedOut.Timeout():
		return "it does not answer in time"
	case errors.Is(err, context.Canceled):
		return "whoever asked is gone"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "the connection was cut off"
	default:
		return "what answers there, or a proxy before it, does not speak as LiveKit does"
	}
}
