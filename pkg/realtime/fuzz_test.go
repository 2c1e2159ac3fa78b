// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzRefusal: an answer that opens no session is no success, whatever it says, and what is shown of it is short, on one
// line, and never the key. Nor does a model have a last day that its page does not name.
func FuzzRefusal(f *testing.F) {
	f.Add(401, `{"error":{"code":"invalid_api_key","message":"`+key+`"}}`, 3000, "invalid_request_error.invalid_api_key")
	f.Add(101, `{"message":"Bearer `+key+`"}`, 1006, key)
	f.Add(200, `{"id":"gpt-realtime","shutdown_date":"2026-09-01"}`, 4000, "\x1b[2J\r\n")
	hide := newSecrets()
	f.Fuzz(func(t *testing.T, status int, body string, code int, text string) {
		for _, o := range []Outcome{answered(status, []byte(body)), closed(code, text)} {
			if o.Class() == OK || o.Why() == "" {
				t.Errorf("status %d with %q, close code %d with %q: %+v", status, body, code, text, o)
			}
			if shown := hide.clean(o.What, key); strings.Contains(shown, key) || strings.ContainsAny(shown, "\r\n\x00") || utf8.RuneCountInString(shown) > maxText+1 {
				t.Errorf("this must not be shown: %q", shown)
			}
		}
		if said, err := parseAbout([]byte(body)); err != nil && said != (about{}) || !said.shutdown.IsZero() && !strings.Contains(strings.ToLower(body), "shutdown_date") && !strings.Contains(body, `\`) {
			t.Errorf("parseAbout(%q) = %+v, %v", body, said, err)
		}
	})
}
