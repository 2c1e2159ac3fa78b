// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

func TestAnswered(t *testing.T) {
	cases := map[string]struct {
		reason string
		status int
		body   string
		want   Reason
		says   string
	}{
		"Unauthorized":  {reason: "401 is the key.", status: 401, want: KeyRejected, says: "401 Unauthorized"},
		"SaidSo":        {reason: "The code says why.", status: 401, body: `{"error":{"code":"invalid_api_key","message":"Incorrect API key provided"}}`, want: KeyRejected, says: "Incorrect API key provided"},
		"Deactivated":   {reason: "A code knows more than 401.", status: 401, body: `{"error":{"code":"account_deactivated"}}`, want: Account},
		"Forbidden":     {reason: "403 is access.", status: 403, want: Forbidden},
		"NoAccess":      {reason: "A key that may not use the model gets 403 for it.", status: 403, body: `{"error":{"code":"model_not_found"}}`, want: ModelGone},
		"NotFound":      {reason: "404 is the model, or the URL.", status: 404, want: ModelGone, says: "--base-url"},
		"Gone":          {reason: "410 is the model.", status: 410, want: ModelGone},
		"Billing":       {reason: "A limit that only money lifts is no rate limit.", status: 429, body: `{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}`, want: Quota},
		"OnlyType":      {reason: "Where there is no code, the type may do.", status: 429, body: `{"error":{"type":"insufficient_quota","code":null}}`, want: Quota},
		"PayFirst":      {reason: "402 is money.", status: 402, want: Quota},
		"RateLimited":   {reason: "429 passes.", status: 429, want: RateLimited},
		"Beta":          {reason: "The former beta is over.", status: 400, body: `{"error":{"type":"invalid_request_error","code":"beta_api_shape_disabled"}}`, want: BetaShape, says: "OpenAI-Beta"},
		"BadRequest":    {reason: "A request that is called invalid stays so.", status: 400, body: `{"error":{"type":"invalid_request_error","message":"no"}}`, want: Request},
		"SomebodyElses": {reason: "A 400 without OpenAI's error may come from any server.", status: 400, body: `<html>`, want: Refused},
		"Internal":      {reason: "5xx passes.", status: 500, want: ServerError},
		"BadGateway":    {reason: "5xx passes, also with a page.", status: 502, body: "<html>Bad gateway</html>", want: ServerError},
		"Page":          {reason: "A page is no websocket.", status: 200, body: "<html>Sign in</html>", want: Protocol, says: "200 OK, which opens none"},
		"Redirect":      {reason: "The key is not taken elsewhere.", status: 302, want: Protocol},
		"Strange":       {reason: "A status without a name is shown as it is.", status: 599, want: ServerError, says: "599"},
		"CodeIsNumber":  {reason: "A gateway's own form of error leaves the status.", status: 401, body: `{"error":{"code":401}}`, want: KeyRejected},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := answered(tc.status, []byte(tc.body))
			if o.Reason != tc.want || !strings.Contains(o.Why(), tc.says) {
				t.Errorf("%s answered(%d, %s) = %s, %q; want %s, %q", tc.reason, tc.status, tc.body, o.Reason, o.Why(), tc.want, tc.says)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	cases := map[string]struct {
		reason string
		code   int
		text   string
		want   Reason
	}{
		"InvalidKey":       {reason: "The upgrade is accepted, and then the key is refused.", code: 3000, text: "invalid_request_error.invalid_api_key", want: KeyRejected},
		"Unauthorized":     {reason: "3000 is the key also without a text.", code: 3000, want: KeyRejected},
		"Beta":             {reason: "The header of the beta closes with 4000.", code: 4000, text: "invalid_request_error.beta_api_shape_disabled", want: BetaShape},
		"Model":            {reason: "4000 means more than the beta.", code: 4000, text: "invalid_request_error.model_not_found", want: ModelGone},
		"Refused":          {reason: "4000 without a text is a request that is refused.", code: 4000, want: Request},
		"Quota":            {reason: "The text wins over the code.", code: 1011, text: "insufficient_quota", want: Quota},
		"Normal":           {reason: "A close before the event opens no session.", code: websocket.CloseNormalClosure, want: Closed},
		"GoingAway":        {reason: "A restart passes.", code: websocket.CloseGoingAway, want: Closed},
		"NoStatus":         {reason: "A close without a code passes.", code: websocket.CloseNoStatusReceived, want: Closed},
		"Abnormal":         {reason: "A lost connection passes.", code: websocket.CloseAbnormalClosure, want: Closed},
		"Internal":         {reason: "Trouble inside passes.", code: websocket.CloseInternalServerErr, want: Closed},
		"ServiceRestart":   {reason: "A restart passes.", code: websocket.CloseServiceRestart, want: Closed},
		"TryAgainLater":    {reason: "Overload passes.", code: websocket.CloseTryAgainLater, want: Closed},
		"TLSHandshake":     {reason: "1015 passes.", code: websocket.CloseTLSHandshake, want: Closed},
		"PolicyViolation":  {reason: "1008 says no and not why.", code: websocket.ClosePolicyViolation, want: Closed},
		"TextOfNoMeaning":  {reason: "A text that says nothing changes nothing.", code: 1001, text: "maximum duration of 60 minutes", want: Closed},
		"SomethingPrivate": {reason: "A private code that was never seen may pass.", code: 4999, want: Closed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := closed(tc.code, tc.text)
			if o.Reason != tc.want {
				t.Errorf("%s closed(%d, %q) = %s; want %s", tc.reason, tc.code, tc.text, o.Reason, tc.want)
			}
			if !strings.Contains(o.Why(), tc.text) {
				t.Errorf("%q does not repeat %q", o.Why(), tc.text)
			}
		})
	}
}

func TestFirst(t *testing.T) {
	cases := map[string]struct {
		reason string
		frame  string
		want   Reason
		model  string
	}{
		"Created":        {reason: "This is a session.", frame: created, model: model},
		"CreatedBare":    {reason: "The event counts, not its content.", frame: `{"type":"session.created"}`},
		"InvalidKey":     {reason: "An error may come as an event.", frame: `{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key"}}`, want: KeyRejected},
		"Beta":           {reason: "The header of the beta is refused by an event.", frame: `{"type":"error","error":{"type":"invalid_request_error","code":"beta_api_shape_disabled"}}`, want: BetaShape},
		"Quota":          {reason: "Billing is not a matter of time.", frame: `{"type":"error","error":{"type":"insufficient_quota","code":"insufficient_quota"}}`, want: Quota},
		"HardLimit":      {reason: "Billing is not a matter of time.", frame: `{"type":"error","error":{"code":"billing_hard_limit_reached"}}`, want: Quota},
		"Deactivated":    {reason: "An account that is closed stays closed.", frame: `{"type":"error","error":{"code":"account_deactivated"}}`, want: Account},
		"ModelGone":      {reason: "A model that is gone stays gone.", frame: `{"type":"error","error":{"type":"invalid_request_error","code":"invalid_model"}}`, want: ModelGone},
		"Invalid":        {reason: "Nothing was sent but URL and headers, so they are wrong.", frame: `{"type":"error","error":{"type":"invalid_request_error","code":"strange"}}`, want: Request},
		"ServerError":    {reason: "Trouble inside passes.", frame: `{"type":"error","error":{"type":"server_error","code":null}}`, want: ServerError},
		"RateLimited":    {reason: "A rate passes.", frame: `{"type":"error","error":{"type":"rate_limit_error","code":"rate_limit_exceeded"}}`, want: RateLimited},
		"UnknownError":   {reason: "An unknown error may be temporary.", frame: `{"type":"error","error":{"type":"x","code":"y"}}`, want: Refused},
		"ErrorBare":      {reason: "An error is no session, whatever it lacks.", frame: `{"type":"error"}`, want: Refused},
		"OtherEvent":     {reason: "Only session.created is a success.", frame: `{"type":"session.updated"}`, want: Protocol},
		"Transcription":  {reason: "Another kind of session is none.", frame: `{"type":"transcription_session.created"}`, want: Protocol},
		"NoType":         {reason: "An object is no event.", frame: `{}`, want: Protocol},
		"Null":           {reason: "Nothing is no event.", frame: `null`, want: Protocol},
		"Text":           {reason: "A greeting is no event.", frame: `hello`, want: Protocol},
		"Empty":          {reason: "An empty frame is no event.", frame: ``, want: Protocol},
		"Array":          {reason: "An event in a list is none.", frame: `[{"type":"session.created"}]`, want: Protocol},
		"TwoEvents":      {reason: "A frame holds one event.", frame: created + created, want: Protocol},
		"InMessage":      {reason: "The word alone is no event.", frame: `{"type":"echo","message":"session.created"}`, want: Protocol},
		"OtherSpelling":  {reason: "Nearly is not enough.", frame: `{"type":"Session.Created"}`, want: Protocol},
		"ModelIsNoText":  {reason: "An answer in another form is not the API's.", frame: `{"type":"session.created","session":{"model":7}}`, want: Protocol},
		"InvalidUnicode": {reason: "Rubbish is no event.", frame: "\xff\xfe\x00", want: Protocol},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := first(websocket.TextMessage, []byte(tc.frame))
			if o.Reason != tc.want || o.SessionModel != tc.model {
				t.Errorf("%s first(%s) = %q, model %q; want %q, %q", tc.reason, tc.frame, o.Reason, o.SessionModel, tc.want, tc.model)
			}
		})
	}
	if o := first(websocket.BinaryMessage, []byte(created)); o.Reason != Protocol {
		t.Errorf("an event in a binary frame is none; got %q", o.Reason)
	}
}

// FuzzFirst sends random bytes as the first frame: nothing panics, and only event
// session.created is a success. What is shown is short, on one line, and never the key.
func FuzzFirst(f *testing.F) {
	for _, frame := range []string{
		created, `{"type":"error","error":{"code":"invalid_api_key","message":"` + key + `"}}`, `{"type":"` + key + `"}`,
		`null`, `[]`, "\x00", `{"type":"session.created","session":{"model":"` + "Bearer " + key + `"}}`,
	} {
		f.Add([]byte(frame), true)
	}
	hide := newSecrets()
	f.Fuzz(func(t *testing.T, frame []byte, text bool) {
		kind := websocket.BinaryMessage
		if text {
			kind = websocket.TextMessage
		}
		o := first(kind, frame)
		if o.Class() == OK {
			var event map[string]any
			named := bytes.Contains(frame, []byte("session.created")) || bytes.ContainsRune(frame, '\\') // or spelt with escapes
			if err := json.Unmarshal(frame, &event); err != nil || !text || !named {
				t.Fatalf("taken for session.created: %q", frame)
			}
		} else if o.What == "" || o.Why() == "" {
			t.Fatalf("a failure without a sentence: %q", frame)
		}
		for _, shown := range []string{hide.clean(o.What, key), hide.clean(o.SessionModel, key)} {
			if strings.Contains(shown, key) || strings.ContainsAny(shown, "\r\n\x00") || utf8.RuneCountInString(shown) > maxText+1 {
				t.Fatalf("this must not be shown: %q", shown)
			}
		}
	})
}

func TestSameModel(t *testing.T) {
	cases := map[string]struct {
		asked, got string
		want       bool
	}{
		"Same":           {asked: "gpt-realtime-2.1", got: "gpt-realtime-2.1", want: true},
		"Snapshot":       {asked: "gpt-realtime", got: "gpt-realtime-2025-08-28", want: true},
		"OtherSnapshot":  {asked: "gpt-realtime-2025-08-28", got: "gpt-realtime-2025-06-03"},
		"SnapshotUndone": {asked: "gpt-realtime-2025-08-28", got: "gpt-realtime"},
		"Mini":           {asked: "gpt-realtime", got: "gpt-realtime-mini"},
		"MiniSnapshot":   {asked: "gpt-realtime", got: "gpt-realtime-mini-2025-12-15"},
		"Newer":          {asked: "gpt-realtime-2", got: "gpt-realtime-2.1"},
		"NoDay":          {asked: "gpt-realtime", got: "gpt-realtime-2025-13-45"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := sameModel(tc.asked, tc.got); got != tc.want {
				t.Errorf("sameModel(%q, %q) = %t", tc.asked, tc.got, got)
			}
		})
	}
}

func TestEveryReasonHasAClass(t *testing.T) {
	for _, r := range failures() {
		if c := r.Class(); c != Fatal && c != Degraded {
			t.Errorf("reason %s is of class %s", r, c)
		}
		if r.Class() == Fatal && r.remedy() == "" {
			t.Errorf("%s needs action, but no remedy says which", r)
		}
	}
}
