// SPDX-License-Identifier: Apache-2.0

package app

import (
	"strings"
	"testing"

	"github.com/callguard/callguard/cmd/internal/programtest"
)

func TestValidate(t *testing.T) {
	cases := map[string]struct {
		reason string
		args   []string
		want   []string // one for each mistake
	}{
		"Defaults":  {reason: "Everything has a default that works."},
		"NoProject": {reason: "Projects may all come from Secrets.", args: []string{"--livekit-url="}},
		"Folder":    {reason: "A complete Secret may be created later, with its own key names.", args: []string{"--livekit-secret-dir=/none", "--livekit-secret-keys=url=u,api-key=k"}},
		"FolderAndFiles": {reason: "It is ambiguous which of the two applies.", args: []string{"--livekit-secret-dir=/none", "--livekit-url-file=/u", "--livekit-api-key-file=/k", "--livekit-api-secret-file=/s"},
			want: []string{`--livekit-secret-dir is "/none"; use either this or --livekit-url`}},
		"NamesOfNoFolder": {reason: "Names have to be of something.", args: []string{"--livekit-secret-keys=url=u"}, want: []string{`--livekit-secret-keys is "url=u", of no folder; use it with --livekit-secret-dir, such as /etc/livekit`}},
		"Names": {reason: "A misspelt one is not passed over.", args: []string{"--livekit-secret-dir=/none", "--livekit-secret-keys=uri=u"},
			want: []string{`--livekit-secret-keys is "uri=u", in which "uri=u" cannot be read; use one such as url=LIVEKIT_URL`}},
		"UnusedKey":  {reason: "A key without a URL is a mistake.", args: []string{"--livekit-api-key-file=/k"}, want: []string{`--livekit-url is ""`}},
		"MissingKey": {reason: "The files may come later: LiveKit's key is asked for again and again.", args: []string{"--livekit-url=ws://lk:7880", "--livekit-api-key-file=/none", "--livekit-api-secret-file=/none"}},
		"URLFile":    {reason: "A whole Secret may come later.", args: []string{"--livekit-url-file=/none", "--livekit-api-key-file=/none", "--livekit-api-secret-file=/none"}},
		"TwoURLs": {reason: "It is ambiguous which of the two URLs applies.", args: []string{"--livekit-url=ws://lk:7880", "--livekit-url-file=/u", "--livekit-api-key-file=/k", "--livekit-api-secret-file=/s"},
			want: []string{`--livekit-url-file is "/u"; use either this or --livekit-url`}},
		"URLFileAlone": {reason: "A URL needs its key, wherever it is given.", args: []string{"--livekit-url-file=/u"}, want: []string{"--livekit-api-key-file", "--livekit-api-secret-file"}},
		"AllAtOnce": {reason: "Every mistake is named in one go, with a value that would work.",
			args: []string{"--livekit-url=lk", "--resync-interval=1ms", "--livekit-concurrency=0", "--livekit-requests-per-minute=5", "--worker-timeout=0", "--webhook-bind-address=8090",
				"--webhook-peers=peer", "--replicas=0", "--replicas-service=peers:1", "--service=adapter", "--log-level=loud", "--certificate-lifetime=1s", "--tls-cert-file=/none"},
			want: []string{"wss://livekit.example.com", "--livekit-api-key-file", "--livekit-api-secret-file", "--resync-interval is \"1ms\"; use 1s or more",
				`--livekit-requests-per-minute is "5"; use 0, or 40 or more, such as 1000`, "--livekit-concurrency", "--worker-timeout", "--certificate-lifetime", "--webhook-bind-address is \"8090\"; use host:port such as :8090", "--webhook-peers", `--replicas-service is "peers:1"; use namespace/name such as callguard-system/metrics-adapter-peers, or nothing`, `--replicas is "0"; use a number from 1 to 100, such as 2`, "--service", "--log-level", "--tls-cert-file"}},
		"KEDA":            {reason: "The clients to answer have to be named.", args: []string{"--keda-bind-address=:8091"}, want: []string{`--keda-client-ca-file is ""; use a file with the authority of KEDA's certificate`}},
		"KEDAOfNobody":    {reason: "A setting of nothing is a mistake.", args: []string{"--keda-client-ca-file=/none"}, want: []string{`--keda-bind-address is ""; use host:port such as :8091`, "--keda-client-ca-file"}},
		"KEDAAddress":     {reason: "Both have to be right.", args: []string{"--keda-bind-address=8091", "--keda-client-ca-file=/none"}, want: []string{`--keda-bind-address is "8091"; use host:port such as :8091, or nothing`, "--keda-client-ca-file"}},
		"StaleBeforeRead": {reason: "A reading must outlive the next one.", args: []string{"--resync-interval=30s"}, want: []string{"--max-staleness is \"45s\"; use 1m0s or more"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			programtest.Validate(t, tc.reason, NewOptions(), tc.args, tc.want)
		})
	}
}

func TestSelfMadeCertificate(t *testing.T) {
	for args, want := range map[string]bool{"": true, "--tls-cert-file=/c --tls-private-key-file=/k": false, "--cert-dir=/d": false} {
		o := NewOptions()
		if err := o.Flags().Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		if got := o.selfMadeCertificate(); got != want {
			t.Errorf("%q: self-made = %t, want %t", args, got, want)
		}
	}
}
