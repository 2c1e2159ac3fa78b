// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Class is the severity of a probe outcome.
type Class string

// The classes.
const (
	Pending  Class = "PENDING"  // no probe has ended yet
	OK       Class = "OK"       // a session opened
	Degraded Class = "DEGRADED" // it may pass by itself, or that is not known
	Fatal    Class = "FATAL"    // somebody has to do something
)

// Reason is why a probe failed. The set is closed: it labels a metric.
type Reason string

// The reasons that are fatal.
const (
	KeyFile     Reason = "key_file"     // there is no key
	KeyRejected Reason = "key_rejected" // revoked, rotated, or never valid
	Forbidden   Reason = "forbidden"    // a key that may not do this
	BetaShape   Reason = "beta_shape"   // a header of the former beta was sent
	ModelGone   Reason = "model_gone"   // no such model, or no longer
	Quota       Reason = "quota"        // a billing problem
	Account     Reason = "account"      // the account is deactivated
	Request     Reason = "request"      // anything else that is wrong with what was sent
)

// The reasons that may pass.
const (
	Unreachable Reason = "unreachable"  // name, address, connection, proxy
	TLS         Reason = "tls"          // the certificate is not trusted
	Timeout     Reason = "timeout"      // no event in time
	RateLimited Reason = "rate_limited" // too many requests
	ServerError Reason = "server_error" // 5xx, or an event with a server error
	Refused     Reason = "refused"      // a refusal without a reason
	Closed      Reason = "closed"       // the websocket ended before the event
	Protocol    Reason = "protocol"     // the answer is not from the Realtime API
	Stale       Reason = "stale"        // no probe has ended for long
)

// failures lists the reasons for which a probe may fail.
func failures() []Reason {
	return []Reason{
		KeyFile, KeyRejected, Forbidden, BetaShape, ModelGone, Quota, Account, Request,
		Unreachable, TLS, Timeout, RateLimited, ServerError, Refused, Closed, Protocol,
	}
}

// Class returns the class of a reason; OK for the empty one.
func (r Reason) Class() Class {
	switch r {
	case "":
		return OK
	case KeyFile, KeyRejected, Forbidden, BetaShape, ModelGone, Quota, Account, Request:
		return Fatal
	default:
		return Degraded
	}
}

// remedy returns what an operator can do.
func (r Reason) remedy() string {
	switch r {
	case KeyFile:
		return "mount the Secret with the key as a file, without subPath, and name it in --key-file"
	case KeyRejected:
		return "put a valid key into the Secret; its file is read again at each probe"
	case Forbidden:
		return "give the project of the key access to the Realtime API and the model"
	case BetaShape:
		return "take out whatever adds the header OpenAI-Beta between here and there"
	case ModelGone:
		return "name a model that exists in --model, and check --base-url"
	case Quota:
		return "check the billing and the limits of the account"
	case Account:
		return "ask OpenAI about the account"
	case Request:
		return "check --base-url, --model, --organization and --project"
	case Unreachable:
		return "check DNS, network policies and HTTPS_PROXY"
	case TLS:
		return "trust its authority in --ca-file, or let nothing intercept the connection"
	case Protocol:
		return "check --base-url, and what stands between here and there"
	default:
		return ""
	}
}

// Outcome is the result of one probe.
type Outcome struct {
	// Reason is why it failed; empty if a session opened.
	Reason Reason
	// What is what happened. It never contains the key.
	What string
	// Remedy is what an operator can do, if more is known than the reason.
	Remedy string
	// SessionModel is the model that session.created named.
	SessionModel string
	// RetryAfter is how long the server asked to wait; zero if it did not.
	RetryAfter time.Duration

	azure bool // Azure answered, whatever the host's name
}

// Class returns the class of the outcome.
func (o Outcome) Class() Class { return o.Reason.Class() }

// Why returns the sentence for an operator: what happened, and what to do.
func (o Outcome) Why() string {
	remedy := o.Remedy
	if remedy == "" {
		remedy = o.Reason.remedy()
	}
	if remedy == "" {
		return o.What
	}
	return o.What + "; " + remedy
}

func failed(r Reason, format string, args ...any) Outcome {
	return Outcome{Reason: r, What: fmt.Sprintf(format, args...)}
}

// problem is an error in OpenAI's form, in a body or an event.
type problem struct {
	Type    string `json:"type"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (p problem) reason() (Reason, bool) {
	if r, ok := byCode(p.Code); ok {
		return r, true
	}
	return byCode(p.Type)
}

// detail returns the part of the problem that is shown.
func (p problem) detail() string {
	name := p.Code
	if name == "" {
		name = p.Type
	}
	switch {
	case name != "" && p.Message != "":
		return " (" + name + ": " + p.Message + ")"
	case name != "" || p.Message != "":
		return " (" + name + p.Message + ")"
	default:
		return ""
	}
}

// byCode returns the reason for an error code. Codes in capitals are Azure's; one is
// misspelt there, too.
func byCode(code string) (Reason, bool) {
	switch code {
	case "invalid_api_key", "authentication_error":
		return KeyRejected, true
	case "permission_error", "unsupported_country_region_territory", "PermissionDenied":
		return Forbidden, true
	case "beta_api_shape_disabled":
		return BetaShape, true
	case "model_not_found", "invalid_model", "DeploymentNotFound", "OperationNotSupported", "OpperationNotSupported":
		return ModelGone, true
	case "insufficient_quota", "billing_hard_limit_reached", "billing_not_active":
		return Quota, true
	case "account_deactivated":
		return Account, true
	case "mismatched_organization", "mismatched_project":
		return Request, true
	case "rate_limit_exceeded", "rate_limit_error":
		return RateLimited, true
	case "server_error":
		return ServerError, true
	default:
		return "", false
	}
}

// answered returns the outcome of an HTTP answer that opened no websocket. If the body is
// from OpenAI, it says more than the status.
func answered(status int, body []byte) Outcome {
	var said struct {
		Error   problem `json:"error"`
		Message string  `json:"message"` // of Azure's gateway, which has no object "error" around it
	}
	if json.Unmarshal(body, &said) != nil {
		said.Error, said.Message = problem{}, "" // a page from something else, or a truncated one
	}
	if said.Error == (problem{}) {
		said.Error.Message = said.Message
	}
	line := fmt.Sprintf("%d %s", status, http.StatusText(status))
	why := "the upgrade to a websocket was answered " + strings.TrimSpace(line) + said.Error.detail()
	if r, ok := said.Error.reason(); ok {
		return failed(r, "%s", why)
	}
	switch {
	case status < http.StatusBadRequest:
		return failed(Protocol, "%s, which opens none", why)
	case status == http.StatusUnauthorized:
		return failed(KeyRejected, "%s", why)
	case status == http.StatusPaymentRequired:
		return failed(Quota, "%s", why)
	case status == http.StatusForbidden:
		return failed(Forbidden, "%s", why)
	case status == http.StatusNotFound || status == http.StatusGone:
		return failed(ModelGone, "%s", why)
	case status == http.StatusTooManyRequests:
		return failed(RateLimited, "%s", why)
	case status >= http.StatusInternalServerError:
		return failed(ServerError, "%s", why)
	case said.Error.Type == invalidRequest:
		return failed(Request, "%s", why)
	default:
		return failed(Refused, "%s", why)
	}
}

const (
	invalidRequest = "invalid_request_error"

	// Private close codes that the Realtime API uses.
	closeUnauthorized = 3000
	closeRefused      = 4000
)

// closed returns the outcome of a websocket that ended before the first event. The text is
// "type.code" if OpenAI gives a reason.
func closed(code int, text string) Outcome {
	why := fmt.Sprintf("the websocket was closed with %d before session.created", code)
	if text != "" {
		why += " (" + text + ")"
	}
	kind, name, _ := strings.Cut(text, ".")
	for _, said := range []string{name, kind} {
		if r, ok := byCode(said); ok {
			return failed(r, "%s", why)
		}
	}
	switch code {
	case closeUnauthorized:
		return failed(KeyRejected, "%s", why)
	case closeRefused:
		return failed(Request, "%s", why)
	default: // 1001, 1005, 1006, 1011, 1012, 1013, 1015 and similar
		return failed(Closed, "%s", why)
	}
}

// first returns the outcome of the first frame. Only session.created is a success.
func first(kind int, frame []byte) Outcome {
	if kind != websocket.TextMessage {
		return failed(Protocol, "the first frame is binary, which no event is")
	}
	var event struct {
		Type    string `json:"type"`
		Session struct {
			Model string `json:"model"`
		} `json:"session"`
		Error problem `json:"error"`
	}
	if err := json.Unmarshal(frame, &event); err != nil {
		return failed(Protocol, "the first frame is no event: %v", err)
	}
	switch event.Type {
	case "session.created":
		return Outcome{SessionModel: event.Session.Model}
	case "error":
		why := "instead of session.created came an error" + event.Error.detail()
		if r, ok := event.Error.reason(); ok {
			return failed(r, "%s", why)
		}
		if event.Error.Type == invalidRequest { // only URL and headers were sent
			return failed(Request, "%s", why)
		}
		return failed(Refused, "%s", why)
	default:
		return failed(Protocol, "the first event is %q, not session.created", event.Type)
	}
}

// sameModel reports whether a session has the model that was asked for, or a dated
// snapshot of it such as NAME-2025-08-28.
func sameModel(asked, got string) bool {
	if asked == got {
		return true
	}
	rest, ok := strings.CutPrefix(got, asked+"-")
	if !ok {
		return false
	}
	_, err := time.Parse(time.DateOnly, rest)
	return err == nil
}
