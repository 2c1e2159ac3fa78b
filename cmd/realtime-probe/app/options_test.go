// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/cmd/internal/programtest"
	"github.com/callguard/callguard/pkg/call"
)

func TestOptions(t *testing.T) {
	inPod := map[string]string{"POD_UID": "uid"}
	least := []string{"--model=gpt-realtime-2.1", "--key-file=/etc/openai/api-key"}
	with := func(args ...string) []string { return append(append([]string{}, least...), args...) }
	cases := map[string]struct {
		reason string
		env    map[string]string
		args   []string
		want   []string // one for each mistake
	}{
		"Pod":       {reason: "A model and a key are enough.", env: inPod, args: least},
		"NoGate":    {reason: "Without a gate nothing needs the pod's UID.", args: with("--calls-url=")},
		"Nothing":   {reason: "Every mistake is reported at once.", want: []string{`--model is ""`, `--key-file is ""`, `--pod-uid is ""`}},
		"NoPod":     {reason: "A gate's answer has to be that of this pod.", args: least, want: []string{`--pod-uid is ""; use $POD_UID`}},
		"HTTPS":     {reason: "The URL of the SDKs works.", env: inPod, args: with("--base-url=https://eu.api.openai.com/v1")},
		"ClearText": {reason: "The key is not sent in clear text.", env: inPod, args: with("--base-url=ws://gateway/v1"), want: []string{`--base-url: "http://gateway/v1" cannot be used: the key would travel in clear text`}},
		"Written":   {reason: "A URL works as every program takes it.", env: inPod, args: with("--base-url=WSS://api.openai.com//v1/\n")},
		"Azure":     {reason: "A resource of Azure OpenAI is one URL and a header.", env: inPod, args: with("--base-url=https://x.openai.azure.com/", "--auth-header=api-key", "--deployment=voice-1")},
		"Preview":   {reason: "Its preview has versions.", env: inPod, args: with("--base-url=https://x.openai.azure.com/openai", "--auth-header=api-key", "--api-version=2025-04-01-preview")},
		"TargetURI": {reason: "The query has settings of its own.", env: inPod, args: with("--base-url=https://x.openai.azure.com/openai/realtime?api-version=1"), want: []string{"--api-version and --deployment"}},
		"Header":    {reason: "A header is one of two.", env: inPod, args: with("--auth-header=Authorization"), want: []string{`--auth-header is "Authorization"; use bearer, or api-key for Azure OpenAI`}},
		"Deploy":    {reason: "A name is one word.", env: inPod, args: with("--deployment=a b", "--api-version=a b"), want: []string{`--deployment is "a b"`, `--api-version is "a b"`}},
		"FromEnv":   {reason: "The environment of OpenAI's SDKs is checked, too.", env: map[string]string{"POD_UID": "uid", "OPENAI_ORG_ID": "org\n1", "OPENAI_PROJECT_ID": "proj 1"}, args: least, want: []string{`--organization is "org\n1"`, `--project is "proj 1"`}},
		"ModelList": {reason: "A model is one.", env: inPod, args: with("--model=a b"), want: []string{`--model is "a b"`}},
		"HeaderBad": {reason: "A header is one line.", env: inPod, args: with("--project=a\nb", "--organization=a b"), want: []string{`--organization is "a b"`, `--project is "a\nb"`}},
		"TooOften":  {reason: "A session a second costs more than it tells.", env: inPod, args: with("--interval=1s"), want: []string{`--interval is "1s"; use 10s or more`}},
		"Timeouts":  {reason: "A probe ends, and a grace is not negative.", env: inPod, args: with("--timeout=0s", "--grace=-1s"), want: []string{`--timeout is "0s"`, `--grace is "-1s"`}},
		"NoGrace":   {reason: "A grace time of zero is allowed.", env: inPod, args: with("--grace=0s", "--fatal-after=1")},
		"Fatal":     {reason: "Before the first failure nothing is fatal.", env: inPod, args: with("--fatal-after=0"), want: []string{`--fatal-after is "0"`}},
		"Mode":      {reason: "A mode is one of two.", env: inPod, args: with("--mode=off"), want: []string{`--mode is "off"; use cached or strict`}},
		"Strict":    {reason: "A mode is one of two.", env: inPod, args: with("--mode=strict")},
		"Address":   {reason: "An address has a port.", env: inPod, args: with("--bind-address=8080"), want: []string{`--bind-address is "8080"`}},
		"FarGate":   {reason: "The gate is in the same pod.", env: inPod, args: with("--calls-url=http://gate.example.com:8089/calls"), want: []string{"--calls-url is"}},
		"OtherPath": {reason: "A gate answers at one path.", env: inPod, args: with("--calls-url=http://localhost:8089/"), want: []string{"such as http://127.0.0.1:8089/calls"}},
		"NoPort":    {reason: "A gate has a port.", env: inPod, args: with("--calls-url=http://localhost/calls"), want: []string{"names no port"}},
		"NoFile":    {reason: "A file that is named is there.", env: inPod, args: with("--ca-file=/does/not/exist"), want: []string{"--ca-file"}},
		"KeyLater":  {reason: "The key may come later: it is read at each probe.", env: inPod, args: with("--key-file=/does/not/exist")},
		"Level":     {reason: "A level is one of four.", env: inPod, args: with("--log-level=loud"), want: []string{`--log-level is "loud"`}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			programtest.Validate(t, tc.reason, NewOptions(func(name string) string { return tc.env[name] }), tc.args, tc.want)
		})
	}
	o := NewOptions(func(name string) string {
		return map[string]string{"POD_UID": "uid", "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1"}[name]
	})
	if o.organization != "org-1" || o.project != "proj_1" {
		t.Errorf("organization and project are %q and %q; want those of $OPENAI_ORG_ID and $OPENAI_PROJECT_ID", o.organization, o.project)
	}
	pod, err := o.pod()
	if err != nil {
		t.Fatal(err)
	}
	want := &call.Pod{UID: "uid", IP: "127.0.0.1", GatePort: call.DefaultGatePort, Running: true, Witnesses: []call.Witness{call.Gate}}
	if diff := cmp.Diff(want, pod); diff != "" {
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
			t.Errorf("realtime-probe %v must fail", args)
		}
	}
}
