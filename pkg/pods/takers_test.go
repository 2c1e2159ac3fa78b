// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// TestTakers: a workload is known to take waiting calls even without pods, and so are owners of other kinds.
func TestTakers(t *testing.T) {
	t.Parallel()
	w := &Watcher{store: NewStore(), onChange: func() {}, log: slog.New(slog.DiscardHandler)}
	set := func(obj any) {
		t.Helper()
		trimmed, err := trim(obj)
		if err != nil {
			t.Fatal(err)
		}
		if pod, is := trimmed.(*corev1.Pod); is {
			w.setPod(pod)
			return
		}
		w.setObject(trimmed)
	}
	born := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), CreationTimestamp: born}
	}
	template := func(guarded string, annotations map[string]string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{call.GuardedLabel: guarded}, Annotations: annotations}}
	}
	deployment := func(namespace, name, guarded string, annotations map[string]string) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: meta(namespace, name), Spec: appsv1.DeploymentSpec{Template: template(guarded, annotations)}}
	}
	set(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "voice"}})
	set(deployment("voice", "empty", "true", map[string]string{call.SecretAnnotation: "team", call.AgentNameAnnotation: "desk", call.DispatchAgainAnnotation: "true", "note": "x"}))
	set(deployment("voice", "far", "true", map[string]string{call.SecretAnnotation: "far", call.WitnessesAnnotation: "gate"}))
	set(deployment("voice", "plain", "", map[string]string{call.SecretAnnotation: "plain"}))
	set(deployment("elsewhere", "other", "true", map[string]string{call.SecretAnnotation: "other"}))
	set(&appsv1.StatefulSet{ObjectMeta: meta("voice", "db"), Spec: appsv1.StatefulSetSpec{Template: template("true", map[string]string{
		call.WaitingRoomsAnnotation: "every", call.AgentNameAnnotation: strings.Repeat("x", 10_000)})}})
	yes := true
	for _, name := range []string{"rollout-1", "rollout-2"} {
		pod := &corev1.Pod{ObjectMeta: meta("voice", name)}
		pod.Annotations = map[string]string{call.AgentNameAnnotation: "canary"}
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "Rollout", Name: "r", UID: "r", Controller: &yes}}
		set(pod)
	}
	of := &corev1.Pod{ObjectMeta: meta("voice", "db-0")}
	of.OwnerReferences = []metav1.OwnerReference{{Kind: StatefulSet, Name: "db", UID: "voicedb", Controller: &yes}}
	set(of)

	got := w.store.Takers()
	slices.SortFunc(got, func(a, b Taker) int { return cmp.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	in := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "voice", Name: name} }
	want := []Taker{
		{Deployment, in("empty"), call.Demand{Project: "voice/team", AgentName: "desk", Again: true}},
		{Deployment, in("far"), call.Demand{Project: "voice/far"}},
		{Namespace, in(""), call.Demand{Project: call.DefaultProject, AgentName: "canary"}},
		{StatefulSet, in("db"), call.Demand{Project: call.DefaultProject, EveryRoom: true}},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}

	projects := map[call.Project]time.Time{}
	w.store.EachProject(func(p call.Project, born time.Time) { projects[p] = born.UTC() })
	if diff := gocmp.Diff(map[call.Project]time.Time{"voice/team": born.Time, call.DefaultProject: born.Time}, projects); diff != "" {
		t.Errorf("LiveKit is asked of these projects (-want +got)\n%s", diff)
	}
}

// TestReady: the kubelet decides.
func TestReady(t *testing.T) {
	t.Parallel()
	for status, want := range map[corev1.ConditionStatus]bool{corev1.ConditionTrue: true, corev1.ConditionFalse: false, "": false} {
		pod := fullPod()
		if status != "" {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: status}}
		}
		trimmed, err := trim(pod)
		kept, ok := trimmed.(*corev1.Pod)
		if err != nil || !ok {
			t.Fatalf("trim returned %T, %v", trimmed, err)
		}
		if got, _ := FromPod(kept); got.Ready != want {
			t.Errorf("of a pod whose Ready is %q is said %v", status, got.Ready)
		}
	}
}
