// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// TestBadInput: each mistake is named, with something that would work.
func TestBadInput(t *testing.T) {
	t.Setenv("KUBECONFIG", os.DevNull)
	cases := map[string]struct {
		args []string
		want string
	}{
		"Command":      {args: []string{"drian", "node-1"}, want: `there is no command "drian"; use list, why POD, why node/NODE, plan NODE, drain NODE, status, end POD, doctor, try or version`},
		"Word":         {args: []string{"list", "agent"}, want: `unexpected argument "agent"; use kubectl calls list without one`},
		"Flag":         {args: []string{"--nod=node-1"}, want: `unknown flag: --nod; kubectl calls --help lists the flags`},
		"Output":       {args: []string{"-o", "table"}, want: `--output is "table"; use json, yaml, name or wide`},
		"PlanNothing":  {args: []string{"plan"}, want: `which node? use kubectl calls plan NAME`},
		"EndNoReason":  {args: []string{"end", "a", "--reason", " "}, want: `--reason is empty; say why, such as --reason "ticket 4711"`},
		"SortBy":       {args: []string{"--sort-by=size"}, want: `--sort-by is "size"; use name, calls, node, state or age`},
		"WatchJSON":    {args: []string{"-w", "-o", "json"}, want: `--watch shows a table, and --output is "json"; leave one out`},
		"WhyYAML":      {args: []string{"why", "a", "-o", "yaml"}, want: `--output is "yaml"; use json`},
		"DoctorYAML":   {args: []string{"doctor", "-o", "yaml"}, want: `--output is "yaml"; use json`},
		"Selector":     {args: []string{"-l", "a in"}, want: `; use one such as app=agent`},
		"NoNode":       {args: []string{"drain"}, want: `which node? use kubectl calls drain NAME`},
		"NodeAndLabel": {args: []string{"drain", "node-1", "-l", "pool=old"}, want: `--selector and node node-1 cannot be combined; use kubectl calls drain -l pool=old`},
		"NodeLabel":    {args: []string{"drain", "-l", "a in"}, want: `; use one such as app=agent`},
		"NoWait":       {args: []string{"drain", "node-1", "--wait=false", "--timeout=1m"}, want: `--timeout with --wait=false has nothing to bound; leave one out`},
		"TwoPods":      {args: []string{"why", "a", "b"}, want: `one pod at a time, and not also "b"; use kubectl calls why a`},
		"Version":      {args: []string{"version", "-o", "yaml"}, want: `--output is "yaml"; use json`},
		"Timeout":      {args: []string{"drain", "node-1", "--timeout=soon"}, want: `--timeout is "soon"; use a duration, such as 30m`},
		"NegTimeout":   {args: []string{"drain", "node-1", "--timeout=-1s"}, want: `--timeout is "-1s"; use 0 for no limit, or a duration, such as 30m`},
		"DryRun":       {args: []string{"drain", "node-1", "--dry-run=server"}, want: `--dry-run is "server"; use true or false`},
		"NoEviction":   {args: []string{"drain", "node-1", "--disable-eviction"}, want: `unknown flag: --disable-eviction`},
		"Grace":        {args: []string{"drain", "node-1", "--grace-period=0"}, want: `unknown flag: --grace-period`},
		"NoPod":        {args: []string{"why"}, want: `which pod? use kubectl calls why NAME`},
		"EventsYAML":   {args: []string{"drain", "node-1", "-o", "yaml"}, want: `--output is "yaml"; use json`},
		"DryEvents":    {args: []string{"drain", "node-1", "--dry-run", "-o", "json"}, want: `--dry-run has no events to show as JSON; use kubectl calls plan -o json`},
		"StatusYAML":   {args: []string{"status", "-o", "yaml"}, want: `--output is "yaml"; use json`},
		"StatusEmpty":  {args: []string{"status", ""}, want: `which node? use kubectl calls status NAME, or without a name all that are cordoned`},
		"DoctorOfWhat": {args: []string{"doctor", "agent"}, want: `unexpected argument "agent"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			if code := Main(t.Context(), tc.args, streams); code != ExitFailed {
				t.Errorf("exit code %d; want %d", code, ExitFailed)
			}
			if text := errOut.String(); !strings.HasPrefix(text, "error: ") || !strings.Contains(text, tc.want) || strings.Count(text, "\n") != 1 || out.Len() > 0 {
				t.Errorf("it says %q, and %q on stdout; want one line with %q", text, out, tc.want)
			}
		})
	}
}

// TestOutputIsPlain: nothing of a cluster that is shown can control a terminal, however it
// is written, and JSON keeps it unchanged.
func TestOutputIsPlain(t *testing.T) {
	shown := "NAME\tCALLS\n日本\x1b[2J\u009b1m\u202e\n"
	want := "NAME\tCALLS\n日本\\u001b[2J\\u009b1m\\u202e\n"
	for size := 1; size <= len(shown); size++ {
		var out strings.Builder
		w := &plain{to: &out}
		for rest := shown; rest != ""; rest = rest[min(size, len(rest)):] {
			piece := rest[:min(size, len(rest))]
			if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
				t.Fatalf("%d of %d bytes were written: %v", n, len(piece), err)
			}
		}
		if out.String() != want {
			t.Errorf("in pieces of %d bytes it is %q; want %q", size, out.String(), want)
		}
	}
	streams, _, _, errOut := genericiooptions.NewTestIOStreams()
	Main(t.Context(), []string{"\x1b[2J"}, streams)
	if text := errOut.String(); strings.Contains(text, "\x1b") || text == "" {
		t.Errorf("it says %q", text)
	}
}

func TestForbidden(t *testing.T) {
	no := apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("no"))
	cases := map[string]struct {
		reason string
		err    error
		want   bool
	}{
		"None":    {reason: "All is well."},
		"One":     {reason: "A right is missing.", err: fmt.Errorf("cannot read: %w", no), want: true},
		"All":     {reason: "Several are.", err: errors.Join(no, fmt.Errorf("cannot read: %w", no)), want: true},
		"Another": {reason: "One of them is something else, which counts.", err: errors.Join(no, errors.New("missing"))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := forbidden(tc.err); got != tc.want {
				t.Errorf("%s forbidden = %t; want %t", tc.reason, got, tc.want)
			}
		})
	}
}

// TestInNeed: an error about a missing right says who has it, and one of a policy does not.
func TestInNeed(t *testing.T) {
	no := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node-1", errors.New(`User "bob" cannot patch resource "nodes" in API group "" at the cluster scope`))
	policy := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "a", errors.New("ValidatingAdmissionPolicy 'callguard-delete' denied request"))
	for _, tc := range []struct {
		args string
		err  error
		want string
	}{
		{"drain node-1", fmt.Errorf("cannot cordon node node-1: %w", no), "\nyou need the right to patch nodes; ClusterRole callguard-operator has it"},
		{"plan node-1", no, "\nyou need the right to patch nodes; ClusterRole callguard-viewer has it"},
		{"end a", no, "\nyou need the right to patch nodes"},
		{"drain node-1", policy, ""},
		{"drain node-1", errors.New("no such node"), ""},
	} {
		if got := inNeed(strings.Fields(tc.args), tc.err); got != tc.want {
			t.Errorf("%s, %v: %q; want %q", tc.args, tc.err, got, tc.want)
		}
	}
}

// TestExamples: every command shows examples.
func TestExamples(t *testing.T) {
	streams, _, _, _ := genericiooptions.NewTestIOStreams()
	root := newCommand(streams)
	for _, cmd := range append(root.Commands(), root) {
		if !strings.Contains(cmd.Example, "kubectl calls") {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
	}
}
