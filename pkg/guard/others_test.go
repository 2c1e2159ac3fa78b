// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

const (
	kruise = "apps.kruise.io/v1beta1"
	argo   = "argoproj.io/v1alpha1"
)

// newCloneSet is a CloneSet of OpenKruise, as its API server returns it, with these additional fields.
func newCloneSet(replicas int64, fields ...any) *unstructured.Unstructured {
	return newOther(kruise, "CloneSet", append([]any{replicas, "spec.replicas", "new", "status.updateRevision"}, fields...)...)
}

// newOther is an owner with a value at a path.
func newOther(apiVersion, kind string, fields ...any) *unstructured.Unstructured {
	is := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	is.SetNamespace(voice)
	is.SetName("web")
	is.SetUID("web")
	is.SetGeneration(3)
	for pair := range slices.Chunk(fields, 2) {
		if err := unstructured.SetNestedField(is.Object, pair[0], strings.Split(pair[1].(string), ".")...); err != nil {
			panic(err)
		}
	}
	return is
}

func controlledByOther(apiVersion, kind string) edit {
	return func(o metav1.Object) {
		o.SetOwnerReferences([]metav1.OwnerReference{controllerRef(apiVersion, kind, "web")})
	}
}

// clonePod is a pod of CloneSet web, of a revision.
func clonePod(name, revision string, edits ...edit) *corev1.Pod {
	return newPod(name, append([]edit{controlledByOther(kruise, "CloneSet"), label(appsv1.ControllerRevisionHashLabelKey, revision), label(hashLabel, revision)}, edits...)...)
}

// TestOtherExcess: which pods are surplus for an owner of another kind.
func TestOtherExcess(t *testing.T) {
	type want struct {
		intent     call.Intent
		n          int
		candidates string
	}
	rolling := func(field string, value any) []any {
		return []any{value, "spec.updateStrategy.rollingUpdate." + field}
	}
	released := label(call.ReleasedLabel, string(call.Unlock))
	cases := map[string]struct {
		reason string
		owner  *unstructured.Unstructured
		pods   []*corev1.Pod
		want   []want
	}{
		"Enough":      {reason: "As many as it wants.", owner: newCloneSet(2), pods: []*corev1.Pod{clonePod("a", "new"), clonePod("b", "new")}},
		"TooMany":     {reason: "Any of them may go.", owner: newCloneSet(1), pods: []*corev1.Pod{clonePod("a", "new"), clonePod("b", "new")}, want: []want{{call.ScaleDown, 1, "a b"}}},
		"Going":       {reason: "A pod that is already leaving counts.", owner: newCloneSet(1), pods: []*corev1.Pod{clonePod("a", "new", draining), clonePod("b", "new")}},
		"Unlocked":    {reason: "One that was unlocked is its controller's to delete.", owner: newCloneSet(1), pods: []*corev1.Pod{clonePod("a", "new", released), clonePod("b", "new")}, want: []want{{call.ScaleDown, 1, "b"}}},
		"Unsaid":      {reason: "Unknown replicas are not zero.", owner: newOther(kruise, "CloneSet", "new", "status.updateRevision"), pods: []*corev1.Pod{clonePod("a", "new"), clonePod("b", "old")}},
		"Rollout":     {reason: "One at a time, unless it does without more.", owner: newCloneSet(3), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "old"), clonePod("c", "new")}, want: []want{{call.Rollout, 1, "a b"}}},
		"ShortHash":   {reason: "A pod has the revision's name, or its hash alone.", owner: newCloneSet(2, "web-abc", "status.updateRevision"), pods: []*corev1.Pod{clonePod("a", "abc"), clonePod("b", "web-abc")}},
		"Missing":     {reason: "As many as it does without.", owner: newCloneSet(3, rolling("maxUnavailable", "50%")...), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "old"), clonePod("c", "old")}, want: []want{{call.Rollout, 2, "a b c"}}},
		"Alpha":       {reason: "Its earlier version says it one level higher.", owner: newCloneSet(3, int64(2), "spec.updateStrategy.maxUnavailable"), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "old"), clonePod("c", "old")}, want: []want{{call.Rollout, 2, "a b c"}}},
		"NotReady":    {reason: "It continues when the new ones are ready.", owner: newCloneSet(2), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "new", unready)}},
		"Surge":       {reason: "During a rollout its surplus is there for old pods to leave, and no new one is surplus.", owner: newCloneSet(2, rolling("maxSurge", int64(1))...), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "old"), clonePod("c", "new")}, want: []want{{call.Rollout, 2, "a b"}}},
		"Both":        {reason: "Old ones go first where it shrinks as well.", owner: newCloneSet(1), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "new"), clonePod("c", "new")}, want: []want{{call.Rollout, 1, "a"}, {call.ScaleDown, 1, "b c"}}},
		"Partition":   {reason: "So many stay old.", owner: newCloneSet(3, rolling("partition", int64(2))...), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "old"), clonePod("c", "old")}, want: []want{{call.Rollout, 1, "a b c"}}},
		"Partitioned": {reason: "And are candidates like others when it shrinks.", owner: newCloneSet(2, rolling("partition", int64(2))...), pods: []*corev1.Pod{clonePod("a", "old"), clonePod("b", "old"), clonePod("c", "new")}, want: []want{{call.ScaleDown, 1, "c a b"}}},
		"Paused":      {reason: "It replaces none.", owner: newCloneSet(1, rolling("paused", true)...), pods: []*corev1.Pod{clonePod("a", "old")}},
		"OnDelete":    {reason: "Neither.", owner: newCloneSet(1, "OnDelete", "spec.updateStrategy.type"), pods: []*corev1.Pod{clonePod("a", "old")}},
		"Unobserved":  {reason: "The revision is that of an earlier template.", owner: newCloneSet(1, int64(2), "status.observedGeneration"), pods: []*corev1.Pod{clonePod("a", "old")}},
		"Named":       {reason: "It has said which.", owner: newCloneSet(1, []any{"b"}, "spec.scaleStrategy.podsToDelete"), pods: []*corev1.Pod{clonePod("a", "new"), clonePod("b", "new")}, want: []want{{call.ScaleDown, 1, "b"}}},
		"Replaced":    {reason: "One that is named at full strength is replaced.", owner: newCloneSet(2, []any{"b"}, "spec.scaleStrategy.podsToDelete"), pods: []*corev1.Pod{clonePod("a", "new"), clonePod("b", "new")}, want: []want{{call.Rollout, 1, "b"}}},
		"Labelled":    {reason: "A rollout has come to it; the other waits.", owner: newCloneSet(2), pods: []*corev1.Pod{clonePod("a", "old", label(namedLabel, "true")), clonePod("b", "old")}, want: []want{{call.Rollout, 1, "a"}}},
		"Numbered":    {reason: "Which of such pods go is for its controller to say.", owner: newCloneSet(1), pods: []*corev1.Pod{clonePod("a", "new", label(appsv1.StatefulSetPodNameLabel, "a")), clonePod("b", "new", label(appsv1.StatefulSetPodNameLabel, "b"))}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot()
			s.add(ofOther(tc.owner))
			s.pods = tc.pods
			small, err := trimOther(tc.owner)
			if err != nil {
				t.Fatal(err)
			}
			cached := newSnapshot()
			cached.add(ofOther(small.(*unstructured.Unstructured)))
			cached.pods = tc.pods
			for what, s := range map[string]*snapshot{"live": s, "cached": cached} {
				var got []want
				for _, e := range s.excesses(s.workload(Key{UID: "web"})) {
					var names []string
					for _, m := range e.candidates {
						names = append(names, m.Name)
					}
					got = append(got, want{e.intent, e.n, strings.Join(names, " ")})
				}
				if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(want{})); diff != "" {
					t.Errorf("%s: %s\n%s", what, tc.reason, diff)
				}
			}
		})
	}
}

// TestRolloutOfAnotherKind: the pods of an Argo Rollout, which are those of its ReplicaSets, are set aside by its own
// label.
func TestRolloutOfAnotherKind(t *testing.T) {
	const hash = "rollouts-pod-template-hash"
	r := newReplicaSet("1", 1, controlledByOther(argo, "Rollout"))
	r.Spec.Selector.MatchLabels = map[string]string{hash: "1"}
	of := func(name string) *corev1.Pod {
		return newPod(name, controlledBy(pods.ReplicaSet, "web-1"), label(hash, "1"))
	}
	aside := newPod("c", controlledByOther(argo, "Rollout"), label(hash, "1-aside"))
	s := newSnapshot(r, of("a"), of("b"), aside)
	s.add(ofOther(newOther(argo, "Rollout", int64(2), "spec.replicas", "25%", "spec.strategy.canary.maxSurge", "7", "status.observedGeneration")))
	w := s.workload(Key{UID: "web"})
	if len(w.members) != 3 || w.desired != 2 || w.surge != 1 {
		t.Errorf("%d members, %d desired, surge %d; want 3, 2, 1", len(w.members), w.desired, w.surge)
	}
	if why := s.inPlace(w.members[0]); why != "" {
		t.Errorf("a pod cannot be set aside: %s", why)
	}
	if is := w.members[2].State; is != call.Aside {
		t.Errorf("the pod that was set aside is %s", is)
	}
	excesses := s.excesses(w)
	if len(excesses) != 1 || excesses[0].n != 1 || excesses[0].intent != call.Rollout {
		t.Errorf("too many: %+v; want one of the two, for a rollout", excesses)
	}
}

// TestTrimOfOthers keeps nothing of an owner that is not used.
func TestTrimOfOthers(t *testing.T) {
	is := newCloneSet(2, strings.Repeat("x", 1000), "spec.template.spec.hostname", "true", "spec.template.metadata.labels.a", []any{}, "spec.scaleStrategy.podsToDelete")
	is.SetAnnotations(map[string]string{"large": "x", call.MinAvailableAnnotation: "1"})
	small, err := trimOther(is)
	if err != nil {
		t.Fatal(err)
	}
	want := newCloneSet(2, map[string]any{}, "spec.template", []any{}, "spec.scaleStrategy.podsToDelete")
	want.SetAnnotations(map[string]string{call.MinAvailableAnnotation: "1"})
	if diff := cmp.Diff(want.Object, small.(*unstructured.Unstructured).Object); diff != "" {
		t.Error(diff)
	}
	if of := ofOther(small.(*unstructured.Unstructured)); of.guarded {
		t.Error("a template without the label makes guarded pods")
	}
}

// TestParseOwner parses a resource with its group.
func TestParseOwner(t *testing.T) {
	for name, want := range map[string]bool{
		"rollouts.argoproj.io": true, "clonesets.apps.kruise.io": true,
		"": false, "rollouts": false, "Rollout": false, "deployments.apps": false, "argoproj.io/rollouts": false, "rollouts.argoproj.io ": false,
	} {
		if _, ok := ParseOwner(name); ok != want {
			t.Errorf("%q is accepted: %t", name, ok)
		}
	}
}

// newGuardOfClones is a guard that follows CloneSets, with these objects and one CloneSet.
func newGuardOfClones(t *testing.T, served []string, of *unstructured.Unstructured, objects ...runtime.Object) (*Guard, *dynamicfake.FakeDynamicClient) {
	t.Helper()
	client := fake.NewClientset(withNodes(append(objects, lockingBudget()))...)
	resources := &metav1.APIResourceList{GroupVersion: kruise}
	for _, name := range served {
		resources.APIResources = append(resources.APIResources, metav1.APIResource{Name: name, Kind: "CloneSet", Namespaced: true})
	}
	client.Resources = append(client.Resources, resources)
	other := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Group: "apps.kruise.io", Version: "v1beta1", Resource: "clonesets"}: "CloneSetList",
	}, of)
	g, err := New(Config{
		Client: client, Dynamic: other, Doors: open{}, Recorder: record.NewFakeRecorder(1000), Settings: Settings{Owners: []string{"clonesets.apps.kruise.io"}},
		Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.now = noon
	done := make(chan error, 1)
	go func() { done <- g.Watch(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the informers know everything", func() bool { return g.cluster.ready() && g.cluster.ownerSynced() })
	return g, other
}

// TestOthersAreFollowed: a guard discovers a kind, reads its objects from memory and live, and distinguishes a deleted
// owner from a deleted kind.
func TestOthersAreFollowed(t *testing.T) {
	key := Key{NamespacedName: types.NamespacedName{Namespace: voice, Name: "web"}, APIVersion: kruise, Kind: "CloneSet", UID: "web"}
	earlier := func(o metav1.Object) {
		o.SetOwnerReferences([]metav1.OwnerReference{controllerRef("apps.kruise.io/v1alpha1", "CloneSet", "web")})
	}
	g, other := newGuardOfClones(t, []string{"clonesets", "clonesets/scale"}, newCloneSet(1), enabledNamespace(), clonePod("a", "new"), clonePod("b", "new", earlier))
	ref := controllerRef(kruise, "CloneSet", "web")
	eventually(t, "CloneSets are known", func() bool { return g.cluster.others.complete(ref) })
	for _, pod := range []string{"a", "b"} {
		is, err := g.cluster.pods.Pods(voice).Get(pod)
		if err != nil {
			t.Fatal(err)
		}
		if top := g.cluster.top(is); top != key {
			t.Errorf("pod %s is of %+v; want %+v", pod, top, key)
		}
	}
	cached, err := g.cluster.cached(key)
	if err != nil {
		t.Fatal(err)
	}
	look := func() (*snapshot, error) { return g.live.live(t.Context(), key, cached, current{}) }
	live, err := look()
	if err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]*snapshot{"cached": cached, "live": live} {
		w := s.workload(key)
		if e := s.excesses(w); len(w.members) != 2 || w.desired != 1 || len(e) != 1 || e[0].n != 1 {
			t.Errorf("%s: %d pods, %d desired, too many: %+v", what, len(w.members), w.desired, e)
		}
		for _, m := range w.members {
			if kind := m.notFollowed(); kind != "" || s.orphaned(m) {
				t.Errorf("%s: pod %s is of %q that is not followed, or an orphan", what, m.Name, kind)
			}
		}
	}
	answer := func(err error) {
		other.PrependReactor("get", "clonesets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
	}
	resource := schema.GroupResource{Group: "apps.kruise.io", Resource: "clonesets"}
	answer(apierrors.NewGenericServerResponse(404, "get", resource, "web", "404 page not found", 0, true))
	if s, err := look(); err == nil || apierrors.IsNotFound(err) {
		t.Errorf("without its kind it is unknown whether an owner is gone: %+v, %v", s, err)
	}
	answer(errors.New("no way"))
	if _, err := look(); err == nil {
		t.Error("an owner that cannot be read is no error")
	}
	answer(apierrors.NewNotFound(resource, "web"))
	if s, err := look(); err != nil || !s.gone["web"] || !s.orphaned(s.workload(key).members[0]) {
		t.Errorf("pods of an owner that is gone are no orphans: %v", err)
	}
}

// TestOthersWithoutScale does not follow a kind that does not say how many pods it wants.
func TestOthersWithoutScale(t *testing.T) {
	g, _ := newGuardOfClones(t, []string{"clonesets"}, newCloneSet(1), enabledNamespace())
	if kind, err := g.cluster.others.find(schema.GroupResource{Group: "apps.kruise.io", Resource: "clonesets"}); kind != nil || err == nil || !strings.Contains(err.Error(), "scale subresource") {
		t.Errorf("found %v, %v", kind, err)
	}
	if kind, err := g.cluster.others.find(schema.GroupResource{Group: "argoproj.io", Resource: "rollouts"}); kind != nil || err == nil {
		t.Errorf("found %v, %v", kind, err)
	}
}
