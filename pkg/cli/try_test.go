// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/trycall"
)

// TestTryFlags: each mistake is named, with a value that works.
func TestTryFlags(t *testing.T) {
	cases := map[string]struct {
		change func(*tryOptions)
		want   string
	}{
		"Good":    {change: func(*tryOptions) {}},
		"NoKey":   {change: func(o *tryOptions) { o.secret = "" }, want: "where is the LiveKit key? use one of --livekit-secret NAME and --livekit-secret-dir FOLDER"},
		"TwoKeys": {change: func(o *tryOptions) { o.dir = "/etc/livekit" }, want: "use one of --livekit-secret"},
		"Keys":    {change: func(o *tryOptions) { o.keys = "url" }, want: `--livekit-secret-keys is "url"`},
		"URL":     {change: func(o *tryOptions) { o.url = "livekit" }, want: "--livekit-url: LiveKit URL"},
		"Expect":  {change: func(o *tryOptions) { o.expect = "song" }, want: `--expect is "song"; use track or join`},
		"Short":   {change: func(o *tryOptions) { o.answerWithin = 0 }, want: "--answer-within is 0s; use 1s or more, such as 30s"},
		"Output":  {change: func(o *tryOptions) { o.output = "xml" }, want: `--output is "xml"; use json`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := tryOptions{secret: "try", expect: expectTrack, answerWithin: time.Second, countWithin: time.Second}
			tc.change(&o)
			if got := fmt.Sprint(o.validate()); !strings.Contains(got, tc.want) || (tc.want == "") != (o.validate() == nil) {
				t.Errorf("%s; want %s", got, tc.want)
			}
		})
	}
}

// TestTryKey reads the key from a Secret as from a folder. No error contains a secret.
func TestTryKey(t *testing.T) {
	const hush = "a-secret-that-nobody-reads"
	good := livekit.Credentials{URL: "ws://livekit.voice.svc:7880", APIKey: "APItry", APISecret: hush}
	dir := t.TempDir()
	for file, text := range map[string]string{"LIVEKIT_URL": good.URL + "\n", "LIVEKIT_API_KEY": "APItry\n", "LIVEKIT_API_SECRET": hush + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := good
	outside.URL = "wss://livekit.example.com"
	cases := map[string]struct {
		reason string
		o      tryOptions
		data   map[string]string
		want   livekit.Credentials
		fails  string
	}{
		"Secret":   {reason: "callguard's names.", o: tryOptions{secret: "try"}, data: map[string]string{"url": good.URL, "api-key": "APItry", "api-secret": hush}, want: good},
		"Named":    {reason: "Names of one's own.", o: tryOptions{secret: "try", keys: "url=u,api-key=k,api-secret=s"}, data: map[string]string{"u": good.URL, "k": "APItry", "s": hush}, want: good},
		"Folder":   {reason: "LiveKit's names, with the end of a line.", o: tryOptions{dir: dir}, want: good},
		"Outside":  {reason: "The URL is another from here.", o: tryOptions{dir: dir, url: outside.URL}, want: outside},
		"NoURL":    {reason: "A Secret need not have one then.", o: tryOptions{secret: "try", url: outside.URL}, data: map[string]string{"api-key": "APItry", "api-secret": hush}, want: outside},
		"Missing":  {reason: "There is no such Secret.", o: tryOptions{secret: "other"}, fails: `cannot read Secret voice/other: secrets "other" not found`},
		"Half":     {reason: "The key lacks its secret.", o: tryOptions{secret: "try"}, data: map[string]string{"url": good.URL, "api-key": hush}, fails: "Secret voice/try has no complete LiveKit key: there is no key api-secret or LIVEKIT_API_SECRET"},
		"BadURL":   {reason: "It is no URL.", o: tryOptions{secret: "try"}, data: map[string]string{"url": "livekit", "api-key": "APItry", "api-secret": hush}, fails: "Secret voice/try: LiveKit URL"},
		"NoFolder": {reason: "It is not mounted.", o: tryOptions{dir: filepath.Join(dir, "none")}, fails: "no complete LiveKit key"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "try"}, Data: map[string][]byte{}}
			for key, text := range tc.data {
				secret.Data[key] = []byte(text)
			}
			got, err := tc.o.credentials(t.Context(), &cluster{client: fake.NewClientset(secret)}, voice)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) || strings.Contains(err.Error(), hush) {
					t.Fatalf("%s\n%v; want %s", tc.reason, err, tc.fails)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("%s\n%v\n-want, +got:\n%s", tc.reason, err, diff)
			}
		})
	}
}

// TestTryExit: the exit code distinguishes a caller without an agent from a wrong key.
func TestTryExit(t *testing.T) {
	for want, err := range map[int]error{ExitFailed: trycall.ErrNotTried, ExitUncounted: trycall.ErrUncounted, ExitUnanswered: trycall.ErrUnanswered} {
		if got := tryExit(fmt.Errorf("%w: why", err)); got != want {
			t.Errorf("%v: exit %d, want %d", err, got, want)
		}
	}
}
