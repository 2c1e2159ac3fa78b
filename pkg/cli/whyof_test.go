// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/callguard/callguard/pkg/call"
)

// pendingCopy waits for a node.
func pendingCopy(p *corev1.Pod) {
	p.Spec.NodeName, p.Status = "", corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes are available: 2 Insufficient cpu.",
	}}}
}

func TestWhyOf(t *testing.T) {
	since, ten, forty := clock(noon().Add(-2*time.Minute)), clock(noon().Add(10*time.Minute)), clock(noon().Add(40*time.Minute))
	for name, tc := range map[string]struct {
		reason    string
		arg       string
		objects   []runtime.Object
		calls     map[string]int64
		want      string
		err       string
		kind      string
		pods      int
		unguarded bool // the Deployment's pod template
	}{
		"Node": {
			reason: "Which pods keep it, until when, and what to do.", arg: "node/node-1", kind: "ExplainedNode", pods: 2, calls: map[string]int64{"a": 0, "b": 1},
			want: "Node:    node-1 is not cordoned, so nothing on it waits for a drain\nPods:    2 guarded pods, with 1 call\nWaits:   2 should go; still held: 2\n" +
				"  voice/a: draining since " + since + ", no call: it is idle; waiting in case a call is still being connected\n" +
				"  voice/b: draining since " + since + ", 1 call: it holds calls\n" +
				"Do: wait some seconds; if it lasts, check that call-gate's --order-file is the pod's annotations\n" +
				"Do: wait; to end its calls now: kubectl calls end POD (break glass)\n" +
				"The calls held now are over by " + ten + " (in 10m) in half of such cases, by " + forty + " (in 40m) in nine of ten, by how long calls lasted before. " + notInIt + "\n",
		},
		"BareNameOfANode": {reason: "There is no such pod, and a node.", arg: "node-1", kind: "ExplainedNode", pods: 2, calls: map[string]int64{"a": 0, "b": 0},
			want: "Node:    node-1 is not cordoned"},
		"OthersOnTheNode": {reason: "A budget of others keeps a node, too; pods of DaemonSets do not.", arg: "node/node-1", kind: "ExplainedNode", pods: 3, calls: map[string]int64{"a": 0, "b": 0},
			objects: []runtime.Object{newPod("web", unguarded), otherWeb()}, want: "  voice/web: not guarded; its own PodDisruptionBudget web allows no disruption now\n"},
		"NotEnabled": {reason: "Unprotected pods do not wait.", arg: "node/node-1", kind: "ExplainedNode", pods: 3, calls: map[string]int64{"a": 0, "b": 0},
			objects: []runtime.Object{newNamespace("off", false), newPod("x", in("off"))}, want: "  off/x: not protected, so its calls end with it: namespace off is not enabled\n"},
		"UnknownOnANode": {reason: "Unknown is not zero.", arg: "node/node-1", kind: "ExplainedNode", pods: 2, calls: map[string]int64{"a": 0},
			want: "Pods:    2 guarded pods; of 1 pod the calls are not known\n"},
		"Workload": {reason: "Which of its pods should leave, and that new ones have no room.", arg: "deployment/web", kind: "ExplainedWorkload", pods: 3, calls: map[string]int64{"a": 0, "b": 1},
			objects: []runtime.Object{newPod("new", pendingCopy)}, want: "New pods:   replacement new is Pending: 0/2 nodes are available: 2 Insufficient cpu.\n"},
		"NotGuarded": {reason: "A team lead's Deployment is not guarded after all.", arg: "deploy/web", kind: "ExplainedWorkload", pods: 2, unguarded: true, calls: map[string]int64{"a": 0, "b": 0},
			want: "State:      its pods are not guarded, and nothing holds or counts their calls\nDo:         label its pod template callguard.dev/guarded: \"true\"\n"},
		"NoSuchNode":     {reason: "A name that is wrong.", arg: "node/nowhere", err: `there is no node "nowhere"; kubectl get nodes lists them`},
		"NoSuchWorkload": {reason: "A name that is wrong.", arg: "sts/db", err: `there is no StatefulSet "db" in namespace voice`},
		"NoSuchPod":      {reason: "Neither a pod nor a node.", arg: "nothing", err: `there is no pod "nothing" in namespace voice`},
		"OtherKind":      {reason: "A kind that has no pods.", arg: "secret/x", err: `why knows nothing of a "secret"; use pod/x, node/x, deployment/x`},
		"NoName":         {reason: "A kind alone.", arg: "node/", err: `"node/" names nothing; use node/NAME`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newDrainStage(t, tc.objects...)
			s.calls, s.ends = tc.calls, map[string]int64{"0.5": 600, "0.9": 2400}
			labels := map[string]string{call.GuardedLabel: "true"}
			if tc.unguarded {
				labels = nil
			}
			deployment, err := s.client.AppsV1().Deployments(voice).Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			deployment.Spec.Template.Labels = labels
			if err := s.fake.Tracker().Update(appsv1.SchemeGroupVersion.WithResource("deployments"), deployment, voice); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = whyAny(t.Context(), s.cluster, &out, voice, tc.arg, "")
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%s It ends with %v; want %q", tc.reason, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if whole := strings.Count(tc.want, "\n") > 5; whole && out.String() != tc.want {
				t.Errorf("%s (-want +got):\n%s", tc.reason, cmp.Diff(tc.want, out.String()))
			} else if !strings.Contains(out.String(), tc.want) {
				t.Errorf("%s It does not say %q:\n%s", tc.reason, tc.want, &out)
			}
			out.Reset()
			if err := whyAny(t.Context(), s.cluster, &out, voice, tc.arg, outputJSON); err != nil {
				t.Fatal(err)
			}
			var e ExplainedPods
			if err := json.Unmarshal(out.Bytes(), &e); err != nil || e.Kind != tc.kind || len(e.Pods) != tc.pods {
				t.Errorf("with -o json it says %v:\n%s", err, &out)
			}
		})
	}
}
