// SPDX-License-Identifier: Apache-2.0

package weburl

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]string{
		"wss://livekit.example.com":          "https://livekit.example.com",
		"ws://livekit:7880":                  "http://livekit:7880",
		"http://10.0.0.1:7880":               "http://10.0.0.1:7880",
		"https://[2001:db8::1]:443":          "https://[2001:db8::1]:443",
		"WS://LiveKit:7880":                  "http://LiveKit:7880",
		"wss://livekit.example.com/":         "https://livekit.example.com",
		"wss://livekit.example.com//":        "https://livekit.example.com",
		"wss://example.com/livekit//a/":      "https://example.com/livekit/a",
		" wss://livekit.example.com\n":       "https://livekit.example.com",
		"https://x.openai.azure.com/openai/": "https://x.openai.azure.com/openai",
	} {
		got, err := Parse(raw, "wss://livekit.example.com")
		if err != nil {
			t.Errorf("Parse(%q): %v", raw, err)
		} else if got.String() != want {
			t.Errorf("Parse(%q) is %s, want %s", raw, got, want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for raw, want := range map[string]string{
		"":                         "it is empty",
		"livekit.example.com":      `"livekit.example.com" cannot be used: its scheme is not`,
		"ftp://livekit":            "its scheme is not ws, wss, http or https",
		"wss://":                   "it names no host",
		"wss:///agent":             "it names no host",
		"wss://:7880":              "it names no host",
		"wss://livekit:":           "its port is not a number",
		"wss://livekit:70000":      "its port is not a number",
		"wss://livekit:port":       "invalid port",
		"wss://livekit\n.example":  "invalid control character",
		"wss://me:hush@livekit":    "user name or password",
		"wss://livekit?token=hush": "query or a fragment",
		"wss://livekit#hush":       "query or a fragment",
		"livekit:7880":             "its scheme is not",

		"wss://livekit/" + strings.Repeat("hush", MaxLength): "it is longer than 1024 bytes",
	} {
		_, err := Parse(raw, "wss://livekit.example.com")
		if err == nil {
			t.Errorf("Parse(%q) worked; want an error with %q", raw, want)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, want) || !strings.HasSuffix(text, "use one such as wss://livekit.example.com") {
			t.Errorf("Parse(%q): %s; want it to hold %q and what would work", raw, text, want)
		}
		if strings.Contains(text, "hush") {
			t.Errorf("Parse(%q) repeats a secret: %s", raw, text)
		}
	}
}

// FuzzParse: an accepted URL contains nothing that may be secret, and parses to the same
// again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"wss://livekit.example.com/a", "http://[::1%25x]:80", "http://x/%3Fa", "ws://a:b@c?d#e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := Parse(raw, "wss://livekit.example.com")
		if err != nil {
			return
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
			t.Errorf("Parse(%q) is %#v", raw, u)
		}
		if again, err := Parse(u.String(), "x"); err == nil && again.String() != u.String() {
			t.Errorf("Parse(%q) is %s, and that is %s", raw, u, again)
		}
	})
}
