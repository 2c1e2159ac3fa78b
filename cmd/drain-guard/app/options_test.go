// SPDX-License-Identifier: Apache-2.0

package app

import (
	"io"
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
		"Defaults": {reason: "Everything has a default that works."},
		"Chart":    {reason: "The Secret may come later than the guard.", args: []string{"--livekit-url-file=/none/url", "--livekit-api-key-file=/none/key", "--livekit-api-secret-file=/none/secret"}},
		"Folder":   {reason: "A complete Secret may be created later, with its own key names.", args: []string{"--livekit-secret-dir=/none", "--livekit-secret-keys=url=u,api-key=k"}},
		"FolderAndFiles": {reason: "It is ambiguous which of the two applies.", args: []string{"--livekit-secret-dir=/none", "--livekit-url-file=/u", "--livekit-api-key-file=/k", "--livekit-api-secret-file=/s"},
			want: []string{`--livekit-secret-dir is "/none"; use either this or --livekit-url`}},
		"NamesOfNoFolder": {reason: "Names have to be of something.", args: []string{"--livekit-secret-keys=url=u"}, want: []string{`--livekit-secret-keys is "url=u", of no folder; use it with --livekit-secret-dir, such as /etc/livekit`}},
		"URLFileAlone":    {reason: "A URL needs its key, wherever it is given, in this program as in the other.", args: []string{"--livekit-url-file=/u"}, want: []string{"--livekit-api-key-file", "--livekit-api-secret-file"}},
		"UnusedKey":       {reason: "A key without a URL is a mistake.", args: []string{"--livekit-api-key-file=/k"}, want: []string{`--livekit-url is ""`}},
		"Names": {reason: "A misspelt one is not passed over.", args: []string{"--livekit-secret-dir=/none", "--livekit-secret-keys=uri=u"},
			want: []string{`--livekit-secret-keys is "uri=u", in which "uri=u" cannot be read; use one such as url=LIVEKIT_URL`}},
		"Owners":      {reason: "Several are named in one flag, or in several.", args: []string{"--owners=rollouts.argoproj.io,clonesets.apps.kruise.io", "--owners=fleets.example.com"}},
		"OwnersAlone": {reason: "Without its group the resource is ambiguous.", args: []string{"--owners=rollouts"}, want: []string{`--owners is "rollouts"; use a resource and its group, such as rollouts.argoproj.io`}},
		"ForEver":     {reason: "Zero is no bound, and no wait.", args: []string{"--max-hold=0", "--settle=0", "--lost-node-release-after=0"}},
		"AllAtOnce": {reason: "Every mistake is named in one go, with a value that would work.",
			args: []string{"--livekit-url=lk", "--livekit-url-file=/url", "--resync-interval=0", "--max-staleness=-1s", "--livekit-concurrency=0", "--livekit-requests-per-minute=5", "--witness-timeout=0", "--read-interval=-1s",
				"--settle=-1s", "--max-hold=-1s", "--leavers=first", "--deletion-cost=on", "--bind-address=8080", "--namespace=", "--log-level=loud"},
			want: []string{
				`--livekit-url-file is "/url"; use either this or --livekit-url`, "wss://livekit.example.com", "--livekit-api-key-file", "--livekit-api-secret-file",
				`--resync-interval is "0s"; use 1s or more`, `--max-staleness is "-1s"; use 2s or more`,
				`--livekit-requests-per-minute is "5"; use 0, or 40 or more, such as 1000`, `--livekit-concurrency is "0"; use a number from 1 to 1024`,
				"--witness-timeout", "--read-interval", `--settle is "-1s"; use zero or more, such as 20s`, "--max-hold", `--leavers is "first"; use packed or fewest-calls`, `--deletion-cost is "on"; use auto or off`, `--bind-address is "8080"; use an address with a port`,
				"--namespace", `--log-level is "loud"; use debug, info, warn or error`,
			}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			programtest.Validate(t, tc.reason, NewOptions(), tc.args, tc.want)
		})
	}
}

// TestNamespace: the guard's namespace is that of its own pod.
func TestNamespace(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "calls")
	if got := NewOptions().doors.Namespace; got != "calls" {
		t.Errorf("namespace %q", got)
	}
}

// TestUnlockSaysWhatItCosts: the help says that calls may be cut.
func TestUnlockSaysWhatItCosts(t *testing.T) {
	var said strings.Builder
	if err := Main(t.Context(), []string{"unlock", "--help"}, io.Discard, &said); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"only the pod's termination grace period", "wait until no pod is set aside or draining", "--kubeconfig"} {
		if !strings.Contains(strings.Join(strings.Fields(said.String()), " "), want) {
			t.Errorf("unlock --help lacks %q:\n%s", want, said.String())
		}
	}
}

func TestMainTellsMistakes(t *testing.T) {
	for reason, args := range map[string][]string{
		"A word that is no command is not passed over.":  {"lock"},
		"Unlock takes what says where the cluster is.":   {"unlock", "--settle=1s"},
		"A kubeconfig that is not there is named.":       {"--kubeconfig=/none"},
		"Settings are looked at before anything is run.": {"--settle=-1s"},
	} {
		if err := Main(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%s %v: no error", reason, args)
		}
	}
}
