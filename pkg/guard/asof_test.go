// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

func version(v string) edit { return func(o metav1.Object) { o.SetResourceVersion(v) } }

// TestKnownAsOfAStep: informers' data may be used if it includes the guard's last step, and that was not long ago.
func TestKnownAsOfAStep(t *testing.T) {
	web := workloadKey(pods.Deployment, "web")
	cases := map[string]struct {
		reason string
		steps  []*corev1.Pod
		known  []*corev1.Pod
		after  time.Duration
		want   bool
	}{
		"NoStep":   {reason: "Nothing says how old it is.", known: []*corev1.Pod{webPod("a", version("9"))}},
		"SeenIt":   {reason: "It holds all up to the step.", steps: []*corev1.Pod{webPod("a", version("9"))}, known: []*corev1.Pod{webPod("a", version("9"))}, want: true},
		"SeenMore": {reason: "The pod has changed since.", steps: []*corev1.Pod{webPod("a", version("9"))}, known: []*corev1.Pod{webPod("a", version("10"))}, want: true},
		"NotYet":   {reason: "It lags behind.", steps: []*corev1.Pod{webPod("a", version("10"))}, known: []*corev1.Pod{webPod("a", version("9"))}},
		"Gone":     {reason: "The pod may have gone before or after.", steps: []*corev1.Pod{webPod("a", version("9"))}, known: []*corev1.Pod{webPod("b", version("12"))}},
		"Latest": {
			reason: "Of several steps the last counts, whatever the order of the answers.",
			steps:  []*corev1.Pod{webPod("b", version("12")), webPod("a", version("9"))}, known: []*corev1.Pod{webPod("a", version("9")), webPod("b", version("11"))},
		},
		"LongAgo":  {reason: "Something may have happened since.", steps: []*corev1.Pod{webPod("a", version("9"))}, known: []*corev1.Pod{webPod("a", version("9"))}, after: asNew + time.Second},
		"NoNumber": {reason: "Versions that cannot be compared prove nothing.", steps: []*corev1.Pod{webPod("a", version("x"))}, known: []*corev1.Pod{webPod("a", version("x"))}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWrites()
			for _, pod := range tc.steps {
				w.enter(web, pod, noon())
			}
			if got := w.in(tc.known, web, noon().Add(tc.after)); got != tc.want {
				t.Errorf("%s It is known: %t; want %t", tc.reason, got, tc.want)
			}
			if w.in(tc.known, workloadKey(pods.Deployment, "other"), noon()) {
				t.Error("a step of one workload affects another")
			}
		})
	}
}

// TestWorkloadIsReadOnce sets many pods aside in two looks: the second uses what the informers have, which hold the
// steps of the first. Of an informer that lags behind, the pods are listed for each. The Deployment is read once.
func TestWorkloadIsReadOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		pods  int
		lags  bool
		lists int
	}{
		"Large": {pods: 2 * large, lists: 1},
		"Lags":  {pods: 2 * large, lags: true, lists: 2},
		"Small": {pods: large - 1, lists: 1},
	} {
		t.Run(name, func(t *testing.T) {
			deployment, set := newDeployment("web", int32(tc.pods), maxSurge(intstr.FromString("100%"))), newReplicaSet("1", int32(tc.pods))
			deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
			deployment.Spec.Template.Labels = map[string]string{"app": "web", call.GuardedLabel: "true"}
			set.Spec.Template.Labels = deployment.Spec.Template.Labels
			objects := []runtime.Object{enabledNamespace(), newNode(true), deployment, edited(set, []edit{label("app", "web")})}
			for i := range tc.pods {
				objects = append(objects, webPod(fmt.Sprintf("a%03d", i), version("1"), label("app", "web")))
			}
			g, client := newGuard(t, objects...)
			if tc.lags { // informers have not seen any pod after its step
				store := clienttesting.ObjectReaction(client.Tracker())
				client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
					handled, obj, err := store(action)
					if pod, is := obj.(*corev1.Pod); is {
						obj = edited(pod.DeepCopy(), []edit{version("2")})
					}
					return handled, obj, err
				})
			}
			lists, owners, aside := 0, 0, 0
			for range 2 {
				client.ClearActions()
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
				for _, action := range client.Actions() {
					switch {
					case action.Matches("get", "deployments"):
						owners++
					case action.Matches("list", "pods"):
						lists++
						if selects := action.(clienttesting.ListAction).GetListRestrictions().Labels.String(); !strings.Contains(selects, "app=web") {
							t.Errorf("pods of other workloads are listed, too: those with %s", selects)
						}
					}
				}
				aside += len(patched(t, client.Actions()))
				eventually(t, "the informer has the steps", func() bool {
					s, err := g.cluster.cached(workloadKey(pods.Deployment, "web"))
					if err != nil {
						return false
					}
					n := 0
					for _, pod := range s.pods {
						if pod.Annotations[call.AsideAnnotation] != "" {
							n++
						}
					}
					return n == aside && (tc.lags || g.writes.in(s.pods, workloadKey(pods.Deployment, "web"), g.now()))
				})
			}
			if lists != tc.lists {
				t.Errorf("the pods were listed %d times for two looks; want %d", lists, tc.lists)
			}
			if owners != 1 {
				t.Errorf("the Deployment was read %d times for two looks; want 1", owners)
			}
			if want := min(2*least, tc.pods); aside != want {
				t.Errorf("%d pods were set aside; want %d, each once", aside, want)
			}
		})
	}
}
