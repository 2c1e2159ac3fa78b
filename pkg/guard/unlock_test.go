// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/callguard/callguard/pkg/call"
)

func TestUnlockNamespace(t *testing.T) {
	released := label(call.ReleasedLabel, string(call.Drain))
	cases := map[string]struct {
		reason string
		pods   []runtime.Object
		// written names the pods that are changed, and how each is released then.
		written map[string]string
		said    string
	}{
		"Serving": {
			reason: "All that serve are let go, and stay where they are.",
			pods:   []runtime.Object{webPod("a"), webPod("b")}, written: map[string]string{"a": "unlock", "b": "unlock"},
			said: "namespace voice: 2 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n",
		},
		"Aside": {
			reason: "One that takes calls still does so as its ReplicaSet's again.",
			pods:   []runtime.Object{asidePod("a")}, written: map[string]string{"a": "unlock"},
			said: "namespace voice: 1 pods unlocked, 1 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n",
		},
		"DrainingAside": {
			reason: "Its ReplicaSet may keep it, and it takes no call: somebody has to know.",
			pods:   []runtime.Object{asidePod("a", draining)}, written: map[string]string{"a": "unlock"},
			said: "namespace voice: 1 pods unlocked, 1 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 1 pods take no new call, and never will again; when their calls are over, replace those that are left: kubectl delete pod --ignore-not-found -n voice a\n",
		},
		"DrainingInPlace": {
			reason: "A StatefulSet's pod would be a replica that refuses every call for ever.",
			pods:   []runtime.Object{dbPod("db-1", "1", draining), dbPod("db-0", "1", draining), dbPod("db-2", "1")},
			written: map[string]string{
				"db-0": "unlock", "db-1": "unlock", "db-2": "unlock",
			},
			said: "namespace voice: 3 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 2 pods take no new call, and never will again; when their calls are over, replace those that are left: kubectl delete pod --ignore-not-found -n voice db-0 db-1\n",
		},
		"ReleasedAside": {
			reason: "Nobody else would ever take a pod that was released and not yet deleted.",
			pods:   []runtime.Object{asidePod("a", draining, released)}, written: map[string]string{"a": "drain"},
			said: "namespace voice: 1 pods unlocked, 1 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 1 pods take no new call, and never will again; when their calls are over, replace those that are left: kubectl delete pod --ignore-not-found -n voice a\n",
		},
		"ReleasedInPlace": {
			reason: "It is let go already, and named all the same: it takes no call.",
			pods:   []runtime.Object{dbPod("db-0", "1", draining, released)}, written: map[string]string{},
			said: "namespace voice: 0 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 1 pods take no new call, and never will again; when their calls are over, replace those that are left: kubectl delete pod --ignore-not-found -n voice db-0\n",
		},
		"Again": {
			reason: "A second unlock finds nothing to do.",
			pods:   []runtime.Object{webPod("a", label(call.ReleasedLabel, string(call.Unlock)))}, written: map[string]string{},
			said: "namespace voice: 0 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n",
		},
		"Terminating": {
			reason: "One that is on its way out needs nobody.",
			pods:   []runtime.Object{asidePod("a", draining, deleted, finalizer("test/stay"))}, written: map[string]string{},
			said: "namespace voice: 0 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(append(tc.pods,
				newDeployment("web", 2), newReplicaSet("1", 2), newStatefulSet(3),
				&policyv1.PodDisruptionBudget{ObjectMeta: objectMeta(BudgetName)})...)
			var out strings.Builder
			if err := unlockNamespace(t.Context(), client, voice, false, &out); err != nil {
				t.Fatal(err)
			}
			written := map[string]string{}
			for _, action := range client.Actions() {
				if patch, ok := action.(interface{ GetName() string }); ok && action.Matches("patch", "pods") {
					pod, err := client.CoreV1().Pods(voice).Get(t.Context(), patch.GetName(), metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					written[pod.Name] = pod.Labels[call.ReleasedLabel]
					if _, noted := pod.Annotations[call.AsideAnnotation]; noted || pod.Labels[hashLabel] == "1-aside" {
						t.Errorf("%s\npod %s is aside still: %v %v", tc.reason, pod.Name, pod.Labels, pod.Annotations)
					}
				}
			}
			if diff := cmp.Diff(tc.written, written); diff != "" {
				t.Errorf("%s\nwritten: -want, +got:\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.said, out.String()); diff != "" {
				t.Errorf("%s\nsaid: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
