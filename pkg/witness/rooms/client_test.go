// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"strings"
	"testing"
)

func TestValidateURL(t *testing.T) {
	cases := map[string]struct {
		reason string
		url    string
		want   string // empty: it will do
	}{
		"Secure":   {reason: "LiveKit's own form.", url: "wss://livekit.example.com"},
		"Plain":    {reason: "Inside a cluster.", url: "http://livekit:7880"},
		"Nothing":  {reason: "It names no server.", url: "", want: `LiveKit URL "" has no scheme and host`},
		"NoScheme": {reason: "Half a URL.", url: "livekit:7880", want: `LiveKit URL "livekit:7880" has no scheme and host`},
		"Other":    {reason: "No such API.", url: "ftp://livekit", want: "has no scheme and host"},
		"Password": {reason: "Who reads a metric would read it.", url: "wss://user:hidden@livekit.example.com", want: "holds a user name or password before an @"},
		"Token":    {reason: "A user name may be one.", url: "https://hidden@livekit.example.com", want: "holds a user name or password before an @"},
		"Broken":   {reason: "Not even where the URL is broken.", url: "wss://user:hidden@livekit:port", want: "holds a user name or password before an @"},
		"Bare":     {reason: "Nor where it is none.", url: "user:hidden@livekit", want: "holds a user name or password before an @"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := ValidateURL(tc.url)
			switch {
			case err == nil && tc.want == "":
			case err == nil || tc.want == "" || !strings.Contains(err.Error(), tc.want):
				t.Errorf("%s got %v, want %q", tc.reason, err, tc.want)
			case strings.Contains(err.Error(), "hidden"):
				t.Errorf("%s the error repeats it: %v", tc.reason, err)
			}
		})
	}
}
