// SPDX-License-Identifier: Apache-2.0

package call

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxText is the limit, in bytes, of a text for people that includes text from
// outside: an Event, an answer of the metrics API, a line of the plugin.
const MaxText = 2 << 10

// Plain returns a text as one line of at most most bytes that is safe to print on a
// terminal: control characters, and invisible ones such as those that change the
// direction of writing, are escaped as in JSON. Use it for all text that people see and
// that callguard did not write alone.
func Plain(text string, most int) string {
	cut := false
	if len(text) > most { // first, because it may be of any length
		text, cut = text[:most], true
		for i := 0; i < utf8.UTFMax && len(text) > 0; i++ { // do not cut a character in half
			if r, size := utf8.DecodeLastRuneInString(text); r != utf8.RuneError || size > 1 {
				break
			}
			text = text[:len(text)-1]
		}
	}
	plain := text
	if strings.ContainsFunc(text, isBreak) {
		plain = strings.Join(strings.FieldsFunc(strings.ReplaceAll(text, "\t", " "), isBreak), "; ")
	}
	plain = Escape(plain, "")
	if len(plain) > most {
		plain, cut = strings.ToValidUTF8(plain[:most], ""), true
	}
	if cut {
		plain += "…"
	}
	return plain
}

// Escape escapes what Plain does, except for the characters in kept.
func Escape(text, kept string) string {
	harmless := func(r rune) bool {
		return unicode.IsGraphic(r) && r != utf8.RuneError && !isBreak(r) || strings.ContainsRune(kept, r)
	}
	if strings.IndexFunc(text, func(r rune) bool { return !harmless(r) }) < 0 {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch high, low := utf16.EncodeRune(r); {
		case harmless(r):
			b.WriteRune(r)
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, "\\u%04x", text[i]) // a byte that is not valid UTF-8
		case high == unicode.ReplacementChar:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			fmt.Fprintf(&b, "\\u%04x\\u%04x", high, low)
		}
	}
	return b.String()
}

// isBreak reports whether a character is a line break or a tab.
func isBreak(r rune) bool {
	return r == '\t' || r == '\n' || r == '\v' || r == '\f' || r == '\r' || r == 0x85 || r == 0x2028 || r == 0x2029
}
