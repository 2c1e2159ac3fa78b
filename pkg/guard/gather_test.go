// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/test/trial"
)

// TestLiveReadsTheWorkload has a workload among others in its namespace. The others are not read: the cost of a decision
// depends only on the workload's own size.
func TestLiveReadsTheWorkload(t *testing.T) {
	const app = "app"
	selects := func(o metav1.Object) {
		selector := &metav1.LabelSelector{MatchLabels: map[string]string{app: "web"}}
		switch o := o.(type) {
		case *appsv1.Deployment:
			o.Spec.Selector = selector
		case *appsv1.ReplicaSet:
			o.Labels[app] = "web"
			o.Spec.Template.Labels = map[string]string{call.GuardedLabel: "true"}
		}
	}
	web := label(app, "web")
	objects := []runtime.Object{
		enabledNamespace(), newNode(false), newDeployment("web", 2, selects), newReplicaSet("1", 2, selects),
		webPod("a", web), webPod("b", web), asidePod("c", web), asidePod("unlabelled"), newStatefulSet(3),
	}
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		objects = append(objects, dbPod(name, "new"))
	}
	key := workloadKey(pods.Deployment, "web")
	cases := map[string]struct {
		reason string
		gone   bool // its Deployment is deleted, its ReplicaSet and pods are not
		want   []string
		lists  []string
	}{
		"There": {
			reason: "By its selector, and by name the pod whose labels somebody has taken off.",
			want:   []string{"a", "b", "c", "unlabelled"}, lists: []string{"replicasets app=web", "pods app=web,callguard.dev/guarded=true"},
		},
		"Gone": {
			reason: "The remaining objects are read by name.", gone: true,
			want: []string{"a", "b", "c", "unlabelled"}, lists: []string{"pods callguard.dev/guarded=true,pod-template-hash=1"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, objects...)
			was, err := g.cluster.cached(key)
			if err != nil {
				t.Fatal(err)
			}
			if tc.gone {
				if err := client.Tracker().Delete(appsv1.SchemeGroupVersion.WithResource("deployments"), voice, "web"); err != nil {
					t.Fatal(err)
				}
			}
			client.ClearActions()
			s, err := g.live.live(t.Context(), key, was, current{})
			if err != nil {
				t.Fatal(err)
			}
			var got, lists []string
			for _, m := range s.workload(key).members {
				got = append(got, m.Name)
			}
			for _, action := range client.Actions() {
				if list, ok := action.(clienttesting.ListAction); ok {
					lists = append(lists, action.GetResource().Resource+" "+list.GetListRestrictions().Labels.String())
				}
			}
			if !slices.Equal(got, tc.want) || !slices.Equal(lists, tc.lists) {
				t.Errorf("%s\npods %q, of lists %q; want %q, of %q", tc.reason, got, lists, tc.want, tc.lists)
			}
			if tc.gone != s.gone[key.UID] {
				t.Errorf("%s\nthe Deployment is gone: %t", tc.reason, s.gone[key.UID])
			}
		})
	}
}

// TestLiveInPages has more pods than one page.
func TestLiveInPages(t *testing.T) {
	guarded := func(o metav1.Object) {
		o.(*appsv1.ReplicaSet).Spec.Template.Labels = map[string]string{call.GuardedLabel: "true"}
	}
	g, client := newGuard(t, enabledNamespace(), newNode(false), newDeployment("web", 2), newReplicaSet("1", 2, guarded), webPod("a"), webPod("b"))
	pages := map[string]*corev1.PodList{
		"":     {ListMeta: metav1.ListMeta{Continue: "more"}, Items: []corev1.Pod{*webPod("a")}},
		"more": {Items: []corev1.Pod{*webPod("b")}},
	}
	client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		options := action.(clienttesting.ListActionImpl).ListOptions
		if options.Limit != pageSize || strings.Contains(options.LabelSelector, "!=") {
			t.Errorf("a list of pods asks for %d, of %q", options.Limit, options.LabelSelector)
		}
		return true, pages[options.Continue], nil
	})
	key := workloadKey(pods.Deployment, "web")
	was, err := g.cluster.cached(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.live.live(t.Context(), key, was, current{})
	if err != nil || len(s.pods) != 2 {
		t.Errorf("of two pages: %v, %v", s, err)
	}
}

// guardOfMany returns a guard of a number of Deployments, each with ten pods that have to leave.
func guardOfMany(t testing.TB, workloads int) *Guard {
	t.Helper()
	objects := []runtime.Object{enabledNamespace(), newNode(true)}
	for i := range workloads {
		name := fmt.Sprint("w-", i)
		replicas := newReplicaSet("1", 10, controlledBy(pods.Deployment, name))
		replicas.Name, replicas.UID = name+"-1", types.UID(name+"-1")
		objects = append(objects, newDeployment(name, 10), replicas)
		for j := range 10 {
			objects = append(objects, newPod(fmt.Sprint(name, "-", j), controlledBy(pods.ReplicaSet, name+"-1")))
		}
	}
	g, _ := newGuard(t, objects...)
	return g
}

// look collects what the informers know about one of them, and plans.
func look(t testing.TB, g *Guard, i int) {
	t.Helper()
	key := workloadKey(pods.Deployment, fmt.Sprint("w-", i))
	s, err := g.cluster.cached(key)
	if err != nil {
		t.Fatal(err)
	}
	if p := g.planner.plan(s, s.workload(key)); len(p.judged) != 10 {
		t.Fatalf("%d pods are judged", len(p.judged))
	}
}

// BenchmarkLooks looks once at each of a number of Deployments of ten pods, all of which have to leave.
func BenchmarkLooks(b *testing.B) {
	for _, n := range []int{10, 100, 500, 2_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := guardOfMany(b, n)
			for i := range n {
				look(b, g, i) // from then on it remembers each pod
			}
			report := trial.CPU(b)
			for b.Loop() {
				for i := range n {
					look(b, g, i)
				}
			}
			report()
		})
	}
}

// TestLookCostsItsWorkload looks at a workload of ten pods, alone and among five thousand others.
func TestLookCostsItsWorkload(t *testing.T) {
	allocations := func(workloads int) float64 {
		g := guardOfMany(t, workloads)
		return testing.AllocsPerRun(20, func() { look(t, g, 0) })
	}
	alone, among := allocations(1), allocations(500)
	t.Logf("a look allocates %.0f times alone, and %.0f times among 5,000 pods", alone, among)
	if among > 1.1*alone {
		t.Errorf("a look at ten pods allocates %.0f times among 5,000, and %.0f times alone", among, alone)
	}
}
