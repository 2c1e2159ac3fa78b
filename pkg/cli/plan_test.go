// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/callguard/callguard/pkg/call"
)

// spare is a node with room for one pod.
func spare() *corev1.Node {
	node := newNode(false)
	node.Name, node.UID = "node-2", "node-2"
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
	return node
}

func TestPlan(t *testing.T) {
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		calls   map[string]int64
		ends    map[string]int64
		want    string
		errOut  string
		err     error
	}{
		"Calls": {
			reason: "Which pod waits for what, and no time.", calls: map[string]int64{"a": 0, "b": 1, "s": 2, "u": 0},
			objects: []runtime.Object{spare(), newPod("s", annotated(call.DeadlineAnnotation, "1h"), annotated(call.OnDeadlineAnnotation, "Release")), newPod("u"), newPod("web", unguarded)},
			want: `NODE     POD         CALLS   WAITS FOR
node-1   voice/a     0       it is idle; waiting in case a call is still being connected
node-1   voice/b     1       the end of 1 call
node-1   voice/s     2       the end of 2 calls; its replacement, for which there is room on node-2; 1h0m0s at most, by annotation callguard.dev/drain-deadline: it goes then, with its calls
node-1   voice/u     0       a place for its replacement: of 1 other node 1 without room for one pod more
node-1   voice/web   -       not guarded
node node-1: 5 pods, with 3 calls. It ends when the last call is over and each pod that goes has its replacement.
When the calls are over is not known: nobody has seen enough calls end
`,
		},
		"Foretold": {
			reason: "When the calls are over, as likely as not and nearly surely.", calls: map[string]int64{"a": 0, "b": 1}, ends: map[string]int64{"0.5": 600, "0.9": 2400},
			want: `NODE     POD       CALLS   WAITS FOR
node-1   voice/a   0       it is idle; waiting in case a call is still being connected
node-1   voice/b   1       the end of 1 call
node node-1: 2 pods, with 1 call. It ends when the last call is over and each pod that goes has its replacement.
The calls held now are over by ` + clock(noon().Add(10*time.Minute)) + ` (in 10m) in half of such cases, by ` + clock(noon().Add(40*time.Minute)) + ` (in 40m) in nine of ten, by how long calls lasted before. Calls that begin before the pods stop taking any, and the time that replacements take, are not in it.
`,
		},
		"Unknown": {
			reason: "Unknown is not zero, and the drain could not end.", calls: map[string]int64{"a": 0}, err: errWaiting,
			want: `NODE     POD       CALLS   WAITS FOR
node-1   voice/a   0       it is idle; waiting in case a call is still being connected
node-1   voice/b   ?       its calls to be known, for unknown is not zero
node node-1: 2 pods; of 1 pod the calls are not known. It ends when the last call is over and each pod that goes has its replacement.
When the calls are over is not known: nobody has seen enough calls end
`,
			errOut: "Warning: as things are the drain could not end: of 1 pod the calls are not known, such as voice/b: no witness of it answers; unknown is not zero, and a pod stays until its calls are known\n",
		},
		"Refused": {
			reason: "The reason for which a drain would be refused is shown, and the rest as well.", calls: map[string]int64{"a": 0, "b": 0}, err: errWaiting,
			objects: []runtime.Object{newNamespace("off", false), newPod("x", in("off"))},
			want: `NODE     POD       CALLS   WAITS FOR
node-1   off/x     -       not protected, so its calls end with it: namespace off is not enabled
node-1   voice/a   0       it is idle; waiting in case a call is still being connected
node-1   voice/b   0       it is idle; waiting in case a call is still being connected
node node-1: 3 pods, with no call. It ends when each pod that goes has its replacement; a call that begins before the drain does is waited for.
A drain would be refused: namespace off is not enabled, so nothing holds the calls of its guarded pods, such as x; an administrator enables it: kubectl label namespace off callguard.dev/enabled=true; to end the calls of 1 pod, and go on: --end-unprotected-calls
`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newDrainStage(t, tc.objects...)
			s.calls, s.ends = tc.calls, tc.ends
			common, out, errOut := newCommon()
			if err := (&planOptions{common: common}).run(t.Context(), s.cluster, "node-1"); !errors.Is(err, tc.err) {
				t.Errorf("%s It ends with %v; want %v", tc.reason, err, tc.err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.errOut, errOut.String()); diff != "" {
				t.Errorf("%s on stderr (-want +got):\n%s", tc.reason, diff)
			}
			if cordoned(t, s) {
				t.Error("the node is cordoned")
			}
			out.Reset()
			if err := (&planOptions{common: common, output: outputJSON}).run(t.Context(), s.cluster, "node-1"); !errors.Is(err, tc.err) {
				t.Errorf("with -o json it ends with %v; want %v", err, tc.err)
			}
			var plan Plan
			if err := json.Unmarshal(out.Bytes(), &plan); err != nil || len(plan.Pods) != strings.Count(tc.want, "\nnode-1 ") || (plan.Calls.MedianSeconds != nil) != (tc.ends != nil) {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}
