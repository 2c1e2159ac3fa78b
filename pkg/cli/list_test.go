// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

func TestList(t *testing.T) {
	cases := map[string]struct {
		reason    string
		options   listOptions
		namespace string
		metrics   error
		want      string
		errOut    string
	}{
		"Namespace": {
			reason: "Unknown is a question mark, and never zero.", namespace: voice,
			want: `POD     NODE     STATE      CALLS   LEAVES FOR   SINCE   AGE
a       node-1   serving    0       -            -       60m
b       node-1   draining   2       drain        2m      60m
c       node-1   released   ?       scale-down   2m      60m
TOTAL   3 pods              2+?
`,
			errOut: "The calls of 1 of 3 pods are unknown; kubectl calls why c -n voice shows the reason\n",
		},
		"All": {
			reason: "Where the label has no effect, that is said.", options: listOptions{output: outputWide},
			want: `NAMESPACE   POD      NODE     STATE         CALLS   LEAVES FOR   SINCE   AGE   OWNER              WITNESSES
off         d        node-1   not enabled   ?       -            -       60m   ReplicaSet/web-1   rooms,worker
voice       a        node-1   serving       0       -            -       60m   ReplicaSet/web-1   rooms,gate
voice       b        node-1   draining      2       drain        2m      60m   Deployment/web     rooms,worker
voice       c        node-1   released      ?       scale-down   2m      60m   Deployment/web     rooms,worker
TOTAL       4 pods                          2+?
`,
			errOut: "The calls of 2 of 4 pods are unknown; kubectl calls why d -n off shows the reason\n",
		},
		"NoMetrics": {
			reason: "One line says why nothing is known.", namespace: voice, metrics: errors.New("503 by the\nserver"),
			want: `POD     NODE     STATE      CALLS   LEAVES FOR   SINCE   AGE
a       node-1   serving    ?       -            -       60m
b       node-1   draining   ?       drain        2m      60m
c       node-1   released   ?       scale-down   2m      60m
TOTAL   3 pods              ?
`,
			errOut: "The calls of 3 of 3 pods are not known: the metrics API does not answer: 503 by the; server\n",
		},
		"Fullest": {
			reason: "The pod that may hold the most comes first.", namespace: voice, options: listOptions{sortBy: byCalls, output: outputName}, want: "pod/c\npod/b\npod/a\n",
			errOut: "The calls of 1 of 3 pods are unknown; kubectl calls why c -n voice shows the reason\n",
		},
		"None": {reason: "As kubectl says it.", namespace: "empty", errOut: "No guarded pods found in namespace empty.\n"},
		"JSON": {
			reason: "Unknown is null, with the reason.", namespace: "off", options: listOptions{output: outputJSON},
			want: `{
    "kind": "GuardedPodList",
    "items": [
        {
            "namespace": "off",
            "name": "d",
            "uid": "d",
            "node": "node-1",
            "enabled": false,
            "state": "serving",
            "calls": null,
            "unknown": "no witness of it answers",
            "created": "2026-01-01T11:00:00Z",
            "owner": "ReplicaSet/web-1",
            "witnesses": [
                "rooms",
                "worker"
            ]
        }
    ]
}
`,
			errOut: "The calls of 1 of 1 pods are unknown; kubectl calls why d -n off shows the reason\n",
		},
		"YAML": {
			reason: "The same in YAML; with nothing there is an empty list.", namespace: "empty", options: listOptions{output: outputYAML},
			want: "items: []\nkind: GuardedPodList\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, newNamespace(voice, true), newNamespace("off", false),
				newPod("a", annotated(call.GatePortAnnotation, "8089")), newPod("b", draining), newPod("c", draining, released(call.ScaleDown)), newPod("d", in("off")), newPod("e", unguarded))
			s.calls, s.metrics = map[string]int64{"a": 0, "b": 2}, tc.metrics
			common, out, errOut := newCommon()
			o := tc.options
			o.common = common
			cmd := &cobra.Command{}
			cmd.SetContext(t.Context())
			if err := o.list(cmd, s.cluster, tc.namespace); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.errOut, errOut.String()); diff != "" {
				t.Errorf("%s on stderr (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestListWithoutRights names the right that is missing.
func TestListWithoutRights(t *testing.T) {
	s := newStage(t, newNamespace(voice, true), newPod("a"))
	common, out, errOut := newCommon()
	o := listOptions{common: common}
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	s.refuse("get", "namespaces")
	if err := o.list(cmd, s.cluster, voice); err != nil || !strings.Contains(errOut.String(), "no right to get") || !strings.Contains(out.String(), "serving") {
		t.Errorf("without the right to get namespaces: %v\n%s%s", err, out, errOut)
	}
	s.refuse("list", "pods")
	if err := o.list(cmd, s.cluster, voice); err == nil || !strings.Contains(err.Error(), "no right to list") {
		t.Errorf("without the right to list pods: %v", err)
	}
}

// TestWatch shows the list until it is interrupted: again when a call has begun, and not only because time
// passed.
func TestWatch(t *testing.T) {
	s := newStage(t, newNamespace(voice, true), newPod("a"), newPod("b"))
	s.calls = map[string]int64{"a": 1, "b": 0}
	out := &trial.Log{}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	common, _, _ := newCommon()
	common.Out = out
	looks := 0
	s.fake.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		switch looks++; looks {
		case 3:
			s.calls["b"] = 4 // no other goroutine reads it
		case 4:
			stop()
		}
		return false, nil, nil
	})
	if err := (&listOptions{common: common, watch: true, pace: time.Millisecond}).watching(ctx, s.cluster, voice); err != nil {
		t.Fatal(err)
	}
	at := clock(noon()) + "\n"
	want := at + "POD     NODE     STATE     CALLS   LEAVES FOR   SINCE   AGE\na       node-1   serving   1       -            -       60m\nb       node-1   serving   0       -            -       60m\nTOTAL   2 pods             1\n" +
		at + "POD     NODE     STATE     CALLS   LEAVES FOR   SINCE   AGE\na       node-1   serving   1       -            -       60m\nb       node-1   serving   4       -            -       60m\nTOTAL   2 pods             5\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCut(t *testing.T) {
	const text = "a\nb\nc\nd\n"
	for lines, want := range map[int]string{0: text, 4: text, 9: text, 3: "a\nb\nand 2 lines more\n", 2: "a\nand 3 lines more\n"} {
		if got := cut(text, lines); got != want {
			t.Errorf("on %d lines: %q; want %q", lines, got, want)
		}
	}
}

func TestSortBy(t *testing.T) {
	n := func(calls int) *int { return &calls }
	list := []Pod{
		{Namespace: "v", Name: "a", Node: "3", State: call.Serving, Calls: n(1), Created: noon()},
		{Namespace: "u", Name: "b", Node: "1", State: call.Draining, Calls: n(7), Created: noon().Add(-time.Hour)},
		{Namespace: "v", Name: "c", Node: "2", State: call.Serving, Created: noon().Add(-time.Minute)},
	}
	for by, want := range map[string]string{"": "bac", byName: "abc", byCalls: "cba", byNode: "bca", byState: "bac", byAge: "bca"} {
		o, got := listOptions{sortBy: by}, ""
		for _, p := range slices.SortedFunc(slices.Values(list), o.compare) {
			got += p.Name
		}
		if got != want {
			t.Errorf("--sort-by=%s gives %s; want %s", by, got, want)
		}
	}
}
