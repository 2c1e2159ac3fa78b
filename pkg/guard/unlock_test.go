// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
)

func TestUnlockNamespace(t *testing.T) {
	released := label(call.ReleasedLabel, string(call.NodeDrain))
	cases := map[string]struct {
		reason string
		pods   []runtime.Object
		// written returns the changed pods, and how each is released.
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
				"namespace voice: 1 pods accept no new calls, for good; when their calls have ended, replace those that are left: kubectl delete pod --ignore-not-found -n voice a\n",
		},
		"DrainingInPlace": {
			reason: "A StatefulSet's pod would be a replica that refuses every call forever.",
			pods:   []runtime.Object{dbPod("db-1", "1", draining), dbPod("db-0", "1", draining), dbPod("db-2", "1")},
			written: map[string]string{
				"db-0": "unlock", "db-1": "unlock", "db-2": "unlock",
			},
			said: "namespace voice: 3 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 2 pods accept no new calls, for good; when their calls have ended, replace those that are left: kubectl delete pod --ignore-not-found -n voice db-0 db-1\n",
		},
		"ReleasedAside": {
			reason: "Nothing else would ever delete a pod that was released and not yet deleted.",
			pods:   []runtime.Object{asidePod("a", draining, released)}, written: map[string]string{"a": "drain"},
			said: "namespace voice: 1 pods unlocked, 1 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 1 pods accept no new calls, for good; when their calls have ended, replace those that are left: kubectl delete pod --ignore-not-found -n voice a\n",
		},
		"ReleasedInPlace": {
			reason: "It is let go already, and named all the same: it takes no call.",
			pods:   []runtime.Object{dbPod("db-0", "1", draining, released)}, written: map[string]string{},
			said: "namespace voice: 0 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
				"namespace voice: 1 pods accept no new calls, for good; when their calls have ended, replace those that are left: kubectl delete pod --ignore-not-found -n voice db-0\n",
		},
		"Again": {
			reason: "A second unlock finds nothing to do.",
			pods:   []runtime.Object{webPod("a", label(call.ReleasedLabel, string(call.Unlock)))}, written: map[string]string{},
			said: "namespace voice: 0 pods unlocked, 0 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n",
		},
		"Terminating": {
			reason: "A pod that is being deleted needs nothing.",
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
			if err := unlockNamespace(t.Context(), client, voice, unlocking{}, &out); err != nil {
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

// TestUnlockAfterUninstall runs the uninstall step in clusters in which callguard is not,
// not yet, or still installed. It acts only in the first.
func TestUnlockAfterUninstall(t *testing.T) {
	doors, err := manifests.Parse(manifests.DefaultValues())
	if err != nil {
		t.Fatal(err)
	}
	deployment := func(edits ...edit) *appsv1.Deployment {
		return newDeployment("drain-guard", 2, append([]edit{func(o metav1.Object) { o.SetNamespace("callguard-system") }}, edits...)...)
	}
	door := func(edits ...edit) *admissionregistrationv1.ValidatingAdmissionPolicy {
		return edited(&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "callguard-tamper-pods"}}, edits)
	}
	bounds := Uninstall{Sure: 50 * time.Millisecond, Patience: 200 * time.Millisecond, Every: 10 * time.Millisecond}
	const given = "namespace voice: 1 pods unlocked, 1 of them handed back to their ReplicaSets, which delete what they have too many of; budget removed\n" +
		"unlocked, for callguard was uninstalled\n"
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		// appears is created while the step looks; vanishes is deleted meanwhile.
		appears  *appsv1.Deployment
		vanishes bool
		said     string
	}{
		"Uninstalled": {reason: "Nothing of callguard is left: pods aside return.", said: given},
		"Installed": {
			reason:  "helm template | kubectl apply makes an ordinary object of the hook.",
			objects: []runtime.Object{deployment(), door()}, said: "callguard is installed, for ValidatingAdmissionPolicy callguard-tamper-pods is there: nothing is unlocked\n",
		},
		"DeploymentOnly": {
			reason:  "Somebody deleted the policies by accident: the guard still runs.",
			objects: []runtime.Object{deployment()}, said: "callguard is installed, for Deployment callguard-system/drain-guard is there: nothing is unlocked\n",
		},
		"DoorsOnly": {
			reason:  "Policies work without a guard.",
			objects: []runtime.Object{door()}, said: "callguard is installed, for ValidatingAdmissionPolicy callguard-tamper-pods is there: nothing is unlocked\n",
		},
		"AppliedFirst": {
			reason: "An apply has made the Job before the rest.", appears: deployment(),
			said: "callguard is installed, for Deployment callguard-system/drain-guard is there: nothing is unlocked\n",
		},
		"Going": {
			reason:  "A Deployment that is deleted in the foreground is deleted with its pods.",
			objects: []runtime.Object{deployment(deleted, finalizer("foregroundDeletion"))}, vanishes: true, said: given,
		},
		"GoingForEver": {
			reason:  "One that somebody else keeps is no uninstall.",
			objects: []runtime.Object{deployment(deleted, finalizer("example.com/keep"))},
			said:    "Deployment callguard-system/drain-guard is being deleted and still there after 200ms: nothing is unlocked\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(append(tc.objects, enabledNamespace(), newDeployment("web", 2), newReplicaSet("1", 2), webPod("serves"), asidePod("aside"), lockingBudget())...)
				looks := 0
				client.PrependReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
					if looks++; looks != 3 {
						return false, nil, nil
					}
					if tc.appears != nil {
						return false, nil, client.Tracker().Add(tc.appears)
					}
					if tc.vanishes {
						return false, nil, client.Tracker().Delete(appsv1.SchemeGroupVersion.WithResource("deployments"), "callguard-system", "drain-guard")
					}
					return false, nil, nil
				})
				var out strings.Builder
				if err := UnlockAfterUninstall(t.Context(), client, doors, "callguard-system", bounds, &out); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.said, out.String()); diff != "" {
					t.Errorf("%s\nsaid: -want, +got:\n%s", tc.reason, diff)
				}
				acts := tc.said == given
				for pod, released := range map[string]string{"serves": "", "aside": "unlock"} {
					is, err := client.CoreV1().Pods(voice).Get(t.Context(), pod, metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					if !acts {
						released = ""
					}
					if is.Labels[call.ReleasedLabel] != released {
						t.Errorf("%s\npod %s is released %q, want %q", tc.reason, pod, is.Labels[call.ReleasedLabel], released)
					}
				}
				_, err := client.PolicyV1().PodDisruptionBudgets(voice).Get(t.Context(), BudgetName, metav1.GetOptions{})
				if apierrors.IsNotFound(err) != acts {
					t.Errorf("%s\nbudget: %v", tc.reason, err)
				}
				for _, action := range client.Actions() {
					if action.Matches("get", "leases") || action.Matches("update", "leases") || action.Matches("create", "leases") {
						t.Errorf("%s\nthe lease is the guards': %v", tc.reason, action)
					}
				}
			})
		})
	}
}
