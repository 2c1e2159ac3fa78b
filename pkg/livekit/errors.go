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

// Refused says that LiveKit, or something before it, answered and did not say what it
// was asked.
type Refused struct {
	Answer string // what it answered, in our own words
	Cure   string // what to do about it

	status int
	code   string // LiveKit's own; empty where the answer is not LiveKit's
}

func (e *Refused) Error() string { return e.Answer + "; " + e.Cure }

// TooMany says that no request may be sent now: LiveKit said so, or the limit of
// requests a minute is used up.
type TooMany struct {
	Until time.Time // from when on one may
	Told  bool      // LiveKit said so
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

// isNotFound reports whether LiveKit said that there is no such room.
func isNotFound(err error) bool {
	refused, ok := errors.AsType[*Refused](err)
	return ok && refused.status == http.StatusNotFound && refused.code == "not_found"
}

// Unanswered reports whether LiveKit found nobody who could say who is in a room.
// Where it asks the room's node, it says so of a room that has closed, too.
func Unanswered(err error) bool {
	refused, ok := errors.AsType[*Refused](err)
	return ok && (refused.code == "unavailable" || refused.code == "deadline_exceeded")
}

const checkURL = "check the URL, and what stands between"

// refusal is what an answer with another status than 200 says. code is LiveKit's own.
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

// unreadable is an answer that says it is good and is not.
func unreadable(format string, args ...any) *Refused {
	return &Refused{Answer: fmt.Sprintf(format, args...), Cure: checkURL, status: http.StatusOK}
}

// unreachable says why a request got no answer, as one of a few classes: whoever chose
// the URL may read it, and is to learn nothing of what is there. net/http repeats of an
// answer what it cannot read, certificates have names, and resolvers addresses.
type unreachable struct {
	text  string
	cause error
}

func (e *unreachable) Error() string { return e.text }
func (e *unreachable) Unwrap() error { return e.cause }

// Detail is what the network said of why a request got no answer, for the program's own
// log; empty where it said nothing.
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

// maxDetail bounds a detail, in bytes.
const maxDetail = 300

func noAnswer(err error, limit time.Duration) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &unreachable{classOf(err, limit), err}
}

// classOf is in what way there was no answer.
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
		return errno.Error() + "; " + checkURL // the system's words
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
