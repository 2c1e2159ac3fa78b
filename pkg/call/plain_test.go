// SPDX-License-Identifier: Apache-2.0

package call

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPlain(t *testing.T) {
	cases := map[string]struct {
		reason, text, want string
	}{
		"Words":      {"What is plain stays.", "3 calls — ¿qué? 日本", "3 calls — ¿qué? 日本"},
		"Terminal":   {"No escape sequence reaches a terminal.", "\x1b[2J\x1b]0;owned\x07", `\u001b[2J\u001b]0;owned\u0007`},
		"EightBits":  {"Nor does one of eight bits.", "\u009b2J\x9b2J", `\u009b2J\u009b2J`},
		"Lines":      {"A text makes no second line, which might be another's.", "idle\nNormal  Released\r\nx\u2028y\tz", "idle; Normal  Released; x; y z"},
		"Turned":     {"It shows in the order in which it was written.", "a\u202eb\u200bc", `a\u202eb\u200bc`},
		"Tags":       {"What cannot be seen is shown, beyond the first plane, too.", "a\U000e0041", `a\udb40\udc41`},
		"Backspaces": {"Nothing is taken back.", "no\b\bok\x7f", `no\u0008\u0008ok\u007f`},
		"Bytes":      {"A byte that is no character is shown as it is.", "a\xffb", `a\u00ffb`},
		"Replaced":   {"So is the mark for one.", "a\ufffdb", `a\ufffdb`},
		"Long":       {"It ends somewhere.", strings.Repeat("x", 100), strings.Repeat("x", 60) + "…"},
		"LongChars":  {"It ends between two characters.", "x" + strings.Repeat("日", 30), "x" + strings.Repeat("日", 19) + "…"},
		"LongCodes":  {"What is written out counts as it is written.", strings.Repeat("\x1b", 60), strings.Repeat(`\u001b`, 10) + "…"},
		"LongBytes":  {"Bytes that are no characters end, too.", strings.Repeat("\xff", 100), strings.Repeat(`\u00ff`, 9) + "…"},
		"Nothing":    {"Nothing is nothing.", "", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := Plain(tc.text, 60)
			if name == "LongBytes" {
				got, tc.want = got[:12], tc.want[:12]
			}
			if got != tc.want {
				t.Errorf("%s\n%q; want %q", tc.reason, got, tc.want)
			}
		})
	}
}

// TestReasonsArePlain: the reason why a number is unknown may contain somebody else's
// text.
func TestReasonsArePlain(t *testing.T) {
	reason := Unknown("the gate does not know: %s", "\x1b[2J\n"+strings.Repeat("x", 1<<20)).Reason()
	if strings.ContainsAny(reason, "\x1b\n") || len(reason) > MaxText+len("…") {
		t.Errorf("%d bytes: %.100q", len(reason), reason)
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("\x1b[2J", 3)
	f.Add("a\u202e\xff\U000e0041", 100)
	f.Fuzz(func(t *testing.T, text string, most int) {
		if most < 0 || most > 1000 {
			return
		}
		got := Plain(text, most)
		if len(got) > most+len("…") || !utf8.ValidString(got) {
			t.Errorf("Plain(%q, %d) is %d bytes: %q", text, most, len(got), got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsControl(r) }); i >= 0 {
			t.Errorf("Plain(%q, %d) = %q", text, most, got)
		}
		// Text that is written as JSON stays JSON with the same content.
		raw, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal([]byte(Escape(string(raw), "")), &back); err != nil || back != strings.ToValidUTF8(text, "\ufffd") && utf8.ValidString(text) {
			t.Errorf("%s is %q, %v; want %q", raw, back, err, text)
		}
	})
}
