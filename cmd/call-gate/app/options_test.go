// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"io"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/cmd/internal/programtest"
)

func TestOptions(t *testing.T) {
	pod := map[string]string{"LIVEKIT_URL": "wss://livekit.example.com", "POD_UID": "uid", "LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s"}
	with := func(name, value string) map[string]string {
		env := maps.Clone(pod)
		env[name] = value
		return env
	}
	cases := map[string]struct {
		reason string
		env    map[string]string
		args   []string
		want   []string // one for each mistake
	}{
		"Pod":         {reason: "The settings of a pod template are enough.", env: pod},
		"NoKey":       {reason: "The gate works without a key.", env: map[string]string{"LIVEKIT_URL": "ws://livekit:7880", "POD_UID": "uid"}},
		"Nothing":     {reason: "Every mistake is reported at once.", want: []string{"--livekit-url: \"\" cannot be used: it is empty; use one such as wss://livekit.example.com", `--pod-uid is ""`}},
		"HalfAKey":    {reason: "Half a key is a mistake.", env: with("LIVEKIT_API_SECRET", ""), want: []string{"LIVEKIT_API_KEY and LIVEKIT_API_SECRET"}},
		"ItsOwn":      {reason: "A gate that leads to itself would loop.", env: with("LIVEKIT_URL", "ws://127.0.0.1:7880"), want: []string{"this is the gate itself"}},
		"Password":    {reason: "It would stand in the log.", env: with("LIVEKIT_URL", "wss://user:hidden@livekit.example.com"), want: []string{"--livekit-url: the URL cannot be used: it holds a user name or password"}},
		"Ports":       {reason: "Ports are ports.", env: pod, args: []string{"--worker-ports=0,8081", "--status-address=8089"}, want: []string{`--status-address is "8089"`, `--worker-ports is "0"`}},
		"NoSuchFile":  {reason: "A file that is named is there.", env: pod, args: []string{"--ca-file=/does/not/exist"}, want: []string{"--ca-file"}},
		"Launches":    {reason: "A process that takes longer is said.", env: pod, args: []string{"--launch-limit=15m", "--livekit-requests-per-minute=10"}},
		"NoLaunch":    {reason: "A job takes time to start, and a room to look into.", env: pod, args: []string{"--launch-limit=0s", "--livekit-requests-per-minute=0"}, want: []string{`--launch-limit is "0s"`, `--livekit-requests-per-minute is "0"`}},
		"Level":       {reason: "A level is one of four.", env: pod, args: []string{"--log-level=loud"}, want: []string{`--log-level is "loud"`}},
		"TwoWorkers":  {reason: "A pod may have several workers.", env: pod, args: []string{"--worker-ports=8081,8082"}},
		"FlagOverEnv": {reason: "A flag wins over the environment.", env: with("LIVEKIT_URL", "nonsense"), args: []string{"--livekit-url=wss://livekit.example.com"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			programtest.Validate(t, tc.reason, NewOptions(func(name string) string { return tc.env[name] }), tc.args, tc.want)
		})
	}
	o := NewOptions(func(string) string { return "" })
	o.workerPorts = []int{8081, 8082}
	if diff := cmp.Diff([]string{"http://127.0.0.1:8081/worker", "http://127.0.0.1:8082/worker"}, o.workerURLs()); diff != "" {
		t.Error(diff)
	}
}

func TestMainTellsMistakes(t *testing.T) {
	none := func(string) string { return "" }
	if err := Main(context.Background(), []string{"--help"}, none, io.Discard); err != nil {
		t.Errorf("--help is no mistake: %v", err)
	}
	for _, args := range [][]string{{"--no-such-flag"}, {"argument"}, {}} {
		if err := Main(context.Background(), args, none, io.Discard); err == nil {
			t.Errorf("call-gate %v must fail", args)
		}
	}
}
