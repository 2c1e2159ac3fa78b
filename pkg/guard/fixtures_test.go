// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// The objects of these tests live in namespace voice, and the UID of each is its name.
const voice = "voice"

func noon() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }

func objectMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: voice, Name: name, UID: types.UID(name), ResourceVersion: "7",
		CreationTimestamp: metav1.NewTime(noon().Add(-time.Hour)),
		Labels:            map[string]string{}, Annotations: map[string]string{},
	}
}

// edit changes an object of a test.
type edit func(metav1.Object)

func edited[T metav1.Object](obj T, edits []edit) T {
	for _, e := range edits {
		e(obj)
	}
	return obj
}

func label(key, value string) edit { return func(o metav1.Object) { o.GetLabels()[key] = value } }

func annotation(key, value string) edit {
	return func(o metav1.Object) { o.GetAnnotations()[key] = value }
}

func finalizer(name string) edit { return func(o metav1.Object) { o.SetFinalizers([]string{name}) } }

func deleted(o metav1.Object) {
	now := metav1.NewTime(noon())
	o.SetDeletionTimestamp(&now)
}

func controlledBy(kind, name string) edit {
	return func(o metav1.Object) {
		o.SetOwnerReferences([]metav1.OwnerReference{controllerRef(appsGroup, kind, name)})
	}
}

func controlledByForeign(kind, name string) edit {
	return func(o metav1.Object) {
		o.SetOwnerReferences([]metav1.OwnerReference{controllerRef("argoproj.io/v1alpha1", kind, name)})
	}
}

func controllerRef(apiVersion, kind, name string) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(name), Controller: &yes}
}

// newPod is a guarded pod that runs and is ready.
func newPod(name string, edits ...edit) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: objectMeta(name),
		Spec:       corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
	pod.Labels[call.GuardedLabel] = "true"
	return edited(pod, edits)
}

// The edits of pods.

func unready(o metav1.Object) { o.(*corev1.Pod).Status.Conditions = nil }

func ended(o metav1.Object) { o.(*corev1.Pod).Status.ContainerStatuses = nil }

func phase(p corev1.PodPhase) edit { return func(o metav1.Object) { o.(*corev1.Pod).Status.Phase = p } }

func draining(o metav1.Object) {
	o.GetAnnotations()[call.DrainingAnnotation] = "drain 2026-01-01T11:59:00Z"
}

func tolerating(tolerations ...corev1.Toleration) edit {
	return func(o metav1.Object) { o.(*corev1.Pod).Spec.Tolerations = tolerations }
}

// webPod is a pod of ReplicaSet web-1 of Deployment web.
func webPod(name string, edits ...edit) *corev1.Pod {
	return newPod(name, append([]edit{controlledBy(pods.ReplicaSet, "web-1"), label(hashLabel, "1")}, edits...)...)
}

// asidePod was a pod of ReplicaSet web-1, and is set aside.
func asidePod(name string, edits ...edit) *corev1.Pod {
	return newPod(name, append([]edit{
		controlledBy(pods.Deployment, "web"), label(hashLabel, "1-aside"),
		annotation(call.HashAnnotation, "1"), annotation(call.AsideAnnotation, "drain 2026-01-01T11:58:00Z"),
	}, edits...)...)
}

func newDeployment(name string, replicas int32, edits ...edit) *appsv1.Deployment {
	surge := intstr.FromString("25%")
	d := &appsv1.Deployment{ObjectMeta: objectMeta(name), Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge}},
	}}
	d.Annotations[revisionMark] = "1"
	return edited(d, edits)
}

func recreate(o metav1.Object) {
	o.(*appsv1.Deployment).Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}

func maxSurge(value intstr.IntOrString) edit {
	return func(o metav1.Object) { o.(*appsv1.Deployment).Spec.Strategy.RollingUpdate.MaxSurge = &value }
}

// newReplicaSet is a ReplicaSet of Deployment web, of a revision, named web-<revision>.
func newReplicaSet(revision string, replicas int32, edits ...edit) *appsv1.ReplicaSet {
	r := &appsv1.ReplicaSet{ObjectMeta: objectMeta("web-" + revision), Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{hashLabel: revision}},
	}}
	r.Annotations[revisionMark] = revision
	controlledBy(pods.Deployment, "web")(r)
	return edited(r, edits)
}

func alone(o metav1.Object) { o.SetOwnerReferences(nil) }

func newStatefulSet(replicas int32, edits ...edit) *appsv1.StatefulSet {
	t := &appsv1.StatefulSet{ObjectMeta: objectMeta("db"), Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}
	t.Generation, t.Status.ObservedGeneration, t.Status.UpdateRevision = 3, 3, "new"
	return edited(t, edits)
}

// dbPod is a pod of StatefulSet db.
func dbPod(name, revision string, edits ...edit) *corev1.Pod {
	return newPod(name, append([]edit{controlledBy(pods.StatefulSet, "db"), label("controller-revision-hash", revision)}, edits...)...)
}

func newDaemonSet(edits ...edit) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: objectMeta("sip"), Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 3}}
	d.Annotations[daemonGeneration] = "2"
	return edited(d, edits)
}

func sipPod(name, generation string, edits ...edit) *corev1.Pod {
	return newPod(name, append([]edit{controlledBy(daemonSet, "sip"), label(daemonPodLabel, generation)}, edits...)...)
}

// newSnapshot is a live snapshot of these objects.
func newSnapshot(objects ...metav1.Object) *snapshot {
	s := &snapshot{owners: map[types.UID]*owner{}, gone: map[types.UID]bool{}}
	for _, obj := range objects {
		switch o := obj.(type) {
		case *corev1.Pod:
			s.pods = append(s.pods, o)
		case *appsv1.Deployment:
			s.add(ofDeployment(o))
		case *appsv1.ReplicaSet:
			s.add(ofReplicaSet(o))
		case *appsv1.StatefulSet:
			s.add(ofStatefulSet(o))
		case *appsv1.DaemonSet:
			s.add(ofDaemonSet(o))
		}
	}
	return s
}

func enabledNamespace(edits ...edit) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: objectMeta(voice)}
	ns.Namespace = ""
	ns.Labels[call.EnabledLabel] = "true"
	return edited(ns, edits)
}

// hearsay is a witness that answers what a test sets.
type hearsay func(*call.Pod) call.Reading

// Ask implements Witness.
func (h hearsay) Ask(_ context.Context, pod *call.Pod) call.Reading { return h(pod) }

// open is a Gatekeeper whose policies are in effect.
type open struct{}

func (open) InForce() error { return nil }

// newGuard returns a Guard whose informers know the objects, and a budget that locks
// namespace voice, at noon.
func newGuard(t testing.TB, objects ...runtime.Object) (*Guard, *fake.Clientset) {
	t.Helper()
	if !slices.ContainsFunc(objects, func(o runtime.Object) bool {
		pdb, is := o.(*policyv1.PodDisruptionBudget)
		return is && pdb.Name == BudgetName
	}) {
		objects = append(objects, lockingBudget())
	}
	return newGuardOf(t, objects...)
}

// newGuardOf is the same for a namespace that may have no budget.
func newGuardOf(t testing.TB, objects ...runtime.Object) (*Guard, *fake.Clientset) {
	t.Helper()
	return newGuardBy(t, noon, objects...)
}

// moving is a clock that starts at noon and moves when a test moves it, even while informers read it.
type moving struct{ passed atomic.Int64 }

func (m *moving) now() time.Time           { return noon().Add(time.Duration(m.passed.Load())) }
func (m *moving) set(after time.Duration)  { m.passed.Store(int64(after)) }
func (m *moving) advance(by time.Duration) { m.passed.Add(int64(by)) }

// newGuardBy is the same with another clock.
func newGuardBy(t testing.TB, now func() time.Time, objects ...runtime.Object) (*Guard, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(withNodes(objects)...)
	countVersions(client)
	g, err := New(Config{
		Client: client, Doors: open{}, Recorder: record.NewFakeRecorder(1000),
		Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.now = now
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Watch(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the informers know everything", func() bool { return g.cluster.ready() && g.cluster.ownerSynced() })
	client.ClearActions()
	return g, client
}

// countVersions gives a pod another resourceVersion with each patch, as the API server does.
func countVersions(client *fake.Clientset) {
	store := clienttesting.ObjectReaction(client.Tracker())
	client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		handled, obj, err := store(action)
		pod, is := obj.(*corev1.Pod)
		if err != nil || !is {
			return handled, obj, err
		}
		pod = pod.DeepCopy()
		before, _ := strconv.Atoi(pod.ResourceVersion) // 0 where a test needs none
		pod.ResourceVersion = strconv.Itoa(before + 1)
		return handled, pod, client.Tracker().Update(action.GetResource(), pod, pod.Namespace)
	})
}

// withNodes adds the nodes of pods that the test has not defined.
func withNodes(objects []runtime.Object) []runtime.Object {
	there := map[string]bool{"": true}
	for _, o := range objects {
		if node, ok := o.(*corev1.Node); ok {
			there[node.Name] = true
		}
	}
	for _, o := range objects {
		if pod, ok := o.(*corev1.Pod); ok && !there[pod.Spec.NodeName] {
			there[pod.Spec.NodeName] = true
			objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName, UID: types.UID(pod.Spec.NodeName)}})
		}
	}
	return objects
}

// nodeIs updates the node, and waits until the guard has dated the change.
func nodeIs(t *testing.T, g *Guard, client *fake.Clientset, node *corev1.Node) {
	t.Helper()
	if _, err := client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what the node says is dated", func() bool {
		want := map[occasion]bool{}
		for _, taint := range wants(node) {
			about := taintOf(node, taint)
			if taint.Key == corev1.TaintNodeUnschedulable {
				about = cordonOf(node)
			}
			want[about] = true
		}
		enter := func(o occasion, _ *metav1.Time) time.Time { want[o] = true; return noon() }
		goes(node, enter)
		candidateSince(node, enter)
		for o := range dated(g) {
			if o.of == node.UID && !want[o] {
				return false
			}
			delete(want, o)
		}
		return len(want) == 0
	})
}

// dated returns everything whose time a guard remembers.
func dated(g *Guard) map[occasion]sight {
	d := g.planner.dates
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[occasion]sight{}
	for _, of := range d.at {
		maps.Copy(all, of)
	}
	return all
}

// leading makes a Guard believe that it leads, without any action.
func leading(g *Guard) {
	g.setQueue(workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[Key]()))
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}
