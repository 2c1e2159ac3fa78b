// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// Refused is the error if LiveKit, or something in front of it, answered, but not with what
// was requested.
type Refused struct {
	Answer string // the answer, in callguard's own words
	Cure   string // what to do about it

	status int
	code   string // LiveKit's error code; empty if the answer is not from LiveKit
}

func (e *Refused) Error() string { return e.Answer + "; " + e.Cure }

// TooMany is the error if no request may be sent now, because LiveKit answered so or the
// limit of requests a minute is used up.
type TooMany struct {
	Until time.Time // when the next one may be sent
	Told  bool      // because of LiveKit's answer
}

func (e *TooMany) Error() string {
	at := e.Until.UTC().Format(time.RFC3339)
	if e.Told {
		return "LiveKit says that it was asked too often; it is asked again at " + at
	}
	return "the limit of requests a minute is used up; LiveKit is asked again at " + at
}

// Denied reports whether LiveKit refused the key.
func Denied(err error) bool {
	refused, ok := errors.AsType[*Refused](err)
	return ok && (refused.status == http.StatusUnauthorized || refused.status == http.StatusForbidden)
}

// isNotFound reports whether LiveKit answered that the room does not exist.
func isNotFound(err error) bool {
	refused, ok := errors.AsType[*Refused](err)
	return ok && refused.status == http.StatusNotFound && refused.code == "not_found"
}

// Unanswered reports whether LiveKit got no answer about who is in a room. If LiveKit asks
// the room's node, that is its answer for a closed room, too.
func Unanswered(err error) bool {
	refused, ok := errors.AsType[*Refused](err)
	return ok && (refused.code == "unavailable" || refused.code == "deadline_exceeded")
}

const checkURL = "check the URL, and what stands between"

// refusal returns the error for an answer with another status than 200. code is LiveKit's
// error code.
func refusal(apiKey string, status int, code string) *Refused {
	e := &Refused{Answer: fmt.Sprintf("it answers %d %s", status, http.StatusText(status)), status: status, code: code}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		e.Answer = fmt.Sprintf("LiveKit refuses API key %q (%d %s)", apiKey, status, http.StatusText(status))
		e.Cure = "check that the secret is that key's and the clocks agree"
	case code == "unavailable" || code == "deadline_exceeded":
		e.Answer = "none of its nodes answers for the room"
		e.Cure = "check that all LiveKit nodes run"
	case code != "" && code != "bad_route":
		e.Cure = "LiveKit's log says why"
	default:
		e.Answer += ", and not as LiveKit does"
		e.Cure = checkURL
	}
	return e
}

// unreadable returns the error for an answer with status 200 that cannot be used.
func unreadable(format string, args ...any) *Refused {
	return &Refused{Answer: fmt.Sprintf(format, args...), Cure: checkURL, status: http.StatusOK}
}

// unreachable is why a request got no answer, as one of a few classes. Whoever chose the
// URL may read it, and must not learn anything about the network: net/http repeats parts of
// answers that it cannot read, certificates contain names, and resolvers' errors addresses.
type unreachable struct {
	text  string
	cause error
}

func (e *unreachable) Error() string { return e.text }
func (e *unreachable) Unwrap() error { return e.cause }

// Detail returns the network's own error of a request without an answer, for the program's
// log; empty if there is none.
func Detail(err error) string {
	e, ok := errors.AsType[*unreachable](err)
	if !ok {
		return ""
	}
	if network := networkError(e.cause); network != nil {
		return call.Plain(network.Error(), maxDetail)
	}
	return ""
}

// maxDetail is the maximum length of a detail, in bytes.
const maxDetail = 300

func noAnswer(err error, limit time.Duration) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &unreachable{classOf(err, limit), err}
}

// classOf returns the class of an error without an answer.
func classOf(err error, limit time.Duration) string {
	var (
		timeout interface{ Timeout() bool }
		errno   syscall.Errno
		dns     *net.DNSError
	)
	if e, ok := errors.AsType[forbidden](err); ok {
		return e.Error()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "the request was given up"
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("it does not answer within %s", limit)
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no such host; check the URL"
	case errors.As(err, &dns):
		return "the name of its host cannot be resolved; check the URL, and the cluster's DNS"
	case errors.As(err, &errno):
		return errno.Error() + "; " + checkURL // the operating system's text
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends the connection before its answer is complete"
	case isTLS(err):
		return "its certificate or its TLS is not accepted; check the URL, and that its authority is trusted"
	case networkError(err) != nil:
		return "it cannot be reached; " + checkURL
	default:
		return "it answers what is not HTTP; " + checkURL
	}
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok
}

func networkError(err error) error {
	if e, ok := errors.AsType[net.Error](err); ok {
		return e
	}
	if isTLS(err) {
		return err
	}
	return nil
}
