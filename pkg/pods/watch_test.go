// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

func fullPod() *corev1.Pod {
	controller := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "voice", Name: "web-1-a", UID: "uid", Labels: map[string]string{call.GuardedLabel: "true", "pod-template-hash": "1-aside"},
			Annotations:     map[string]string{call.SecretAnnotation: "team", call.WitnessesAnnotation: "rooms", call.WorkerPortAnnotation: "9000", call.SecretKeysAnnotation: "url=LK_URL", "other": "x"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", UID: "rs", Controller: &controller}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "agent", Image: "x"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1",
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		},
	}
}

func TestTrimKeepsWhatIsRead(t *testing.T) {
	want, errs := FromPod(fullPod())
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	trimmed, err := trim(fullPod())
	if err != nil {
		t.Fatal(err)
	}
	pod, ok := trimmed.(*corev1.Pod)
	if !ok {
		t.Fatalf("trim returned %T", trimmed)
	}
	got, _ := FromPod(pod)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if len(pod.Spec.Containers) != 0 || pod.ManagedFields != nil || pod.Annotations["other"] != "" {
		t.Error("a trimmed pod still has fields that nothing reads")
	}
	if want.State != call.Aside || want.Project != "voice/team (url=LK_URL)" || !want.Running || want.WorkerPort != 9000 {
		t.Errorf("FromPod = %+v", want)
	}
}

// TestTrimKeepsAnnotations: a pod's annotations are kept.
func TestTrimKeepsAnnotations(t *testing.T) {
	for _, a := range call.Annotations() {
		if a.On != call.OnPod {
			continue
		}
		pod := fullPod()
		pod.Labels, pod.Annotations = map[string]string{a.Key: "so"}, map[string]string{a.Key: "so"}
		trimmed, err := trim(pod)
		if kept, ok := trimmed.(*corev1.Pod); err != nil || !ok || a.Label && kept.Labels[a.Key] != "so" || !a.Label && kept.Annotations[a.Key] != "so" {
			t.Errorf("%s is not kept: %v", a.Key, err)
		}
	}
}

// TestTrimOfTheLarge: anyone who may write in some namespace can create objects as large as the API server accepts. No more is
// kept of them than of others.
func TestTrimOfTheLarge(t *testing.T) {
	many := map[string]string{}
	for i := range 10_000 {
		many[fmt.Sprintf("label-%d", i)] = strings.Repeat("x", 60)
	}
	guarded := maps.Clone(many)
	guarded[call.GuardedLabel] = "true"
	meta := metav1.ObjectMeta{Name: "large", Labels: many, Annotations: map[string]string{"note": strings.Repeat("x", 200<<10)}}
	for name, obj := range map[string]any{
		"Deployment": &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: many}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: many}},
		}},
		"GuardedDeployment": &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: many}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: guarded}},
		}},
		"ReplicaSet":  &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: guarded}}}},
		"StatefulSet": &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: guarded}}}},
		"Namespace":   &corev1.Namespace{ObjectMeta: meta},
	} {
		trimmed, err := trim(obj)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(trimmed)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > 1<<10 {
			t.Errorf("of a large %s %d bytes are kept; want 1 KiB at most", name, len(raw))
		}
	}
}

func TestFromPodSaysWhatItCannotRead(t *testing.T) {
	pod := fullPod()
	pod.Annotations = map[string]string{call.WitnessesAnnotation: "romos", call.WorkerPortAnnotation: "http", call.SecretKeysAnnotation: "LIVEKIT_URL"}
	got, errs := FromPod(pod)
	if len(errs) != 3 {
		t.Errorf("errors: %v", errs)
	}
	if diff := cmp.Diff(call.DefaultWitnesses(), got.Witnesses); diff != "" || got.WorkerPort != call.DefaultWorkerPort {
		t.Errorf("the defaults do not apply: %v, %d", got.Witnesses, got.WorkerPort)
	}
}

// TestFromPodKeysOfTheSecret: the project that a pod works for, and the errors about impossible keys.
func TestFromPodKeysOfTheSecret(t *testing.T) {
	for name, tc := range map[string]struct {
		secret, keys string
		want         call.Project
		says         string
	}{
		"Named":    {secret: "team", keys: call.ExampleSecretKeys, want: "voice/team (" + call.ExampleSecretKeys + ")"},
		"Unread":   {secret: "team", keys: "LIVEKIT_URL", want: "voice/team", says: `annotation callguard.dev/livekit-secret-keys is "LIVEKIT_URL", in which "LIVEKIT_URL" cannot be read; use one such as ` + call.ExampleSecretKeys},
		"NoSecret": {keys: "url=a", want: call.DefaultProject, says: `annotation callguard.dev/livekit-secret-keys is "url=a", of no Secret; name it in annotation callguard.dev/livekit-secret, such as livekit`},
	} {
		pod := fullPod()
		pod.Annotations = map[string]string{call.SecretAnnotation: tc.secret, call.SecretKeysAnnotation: tc.keys}
		got, errs := FromPod(pod)
		if said := errors.Join(errs...); got.Project != tc.want || (said != nil) != (tc.says != "") || said != nil && !strings.HasPrefix(said.Error(), tc.says) {
			t.Errorf("%s: project %s, errors %v; want %s, %q", name, got.Project, said, tc.want, tc.says)
		}
	}
}

func TestRunning(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	cases := map[string]struct {
		states []corev1.ContainerState
		phase  corev1.PodPhase
		want   bool
	}{
		"Pending":             {nil, corev1.PodPending, false},
		"Running":             {[]corev1.ContainerState{running}, corev1.PodRunning, true},
		"CrashLoop":           {[]corev1.ContainerState{waiting}, corev1.PodRunning, false},
		"SiblingNeverStarted": {[]corev1.ContainerState{waiting, running}, corev1.PodPending, true},
		"Ended":               {[]corev1.ContainerState{ended}, corev1.PodRunning, false},
		"NodeIsLost":          {[]corev1.ContainerState{running}, corev1.PodUnknown, true},
	}
	for name, tc := range cases {
		pod := fullPod()
		pod.Status.Phase, pod.Status.ContainerStatuses = tc.phase, nil
		for _, s := range tc.states {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{State: s})
		}
		if got, _ := FromPod(pod); got.Running != tc.want {
			t.Errorf("%s: running = %t, want %t", name, got.Running, tc.want)
		}
	}
}

// TestAgentRuns asks the page of an agent only while its container may run, whatever else
// runs in the pod; other witnesses are still asked. The same applies to a trimmed pod.
func TestAgentRuns(t *testing.T) {
	const both, rooms, none = "rooms,worker", "rooms", ""
	cases := map[string]struct {
		reason      string
		annotations map[string]string
		ports       []int32 // of agent, helper and other; zero: no port
		running     []string
		asked       string // the witnesses that are asked while the pod runs
	}{
		"ByPort":      {reason: "It keeps crashing, next to a helper that runs.", ports: []int32{8081, 0, 0}, running: []string{"helper"}, asked: rooms},
		"ByPortRuns":  {reason: "The helper has ended.", ports: []int32{8081, 0, 0}, running: []string{"agent"}, asked: both},
		"ByOwnPort":   {reason: "The team says which port it is.", annotations: map[string]string{call.WorkerPortAnnotation: "9000"}, ports: []int32{9000, 8081, 0}, running: []string{"helper"}, asked: rooms},
		"ByName":      {reason: "The team says which container it is.", annotations: map[string]string{call.AgentContainerAnnotation: "agent"}, ports: []int32{0, 8081, 0}, running: []string{"helper", "other"}, asked: rooms},
		"ByNameRuns":  {reason: "The team says which container it is.", annotations: map[string]string{call.AgentContainerAnnotation: "agent"}, ports: []int32{0, 8081, 0}, running: []string{"agent"}, asked: both},
		"OnlyItsPage": {reason: "No other witness counts, and it cannot have a call.", annotations: map[string]string{call.WitnessesAnnotation: "worker"}, ports: []int32{8081, 0, 0}, running: []string{"helper"}, asked: none},
		"OtherPort":   {reason: "That page is not read, so its port says nothing about the agent.", annotations: map[string]string{call.WitnessesAnnotation: "rooms"}, ports: []int32{0, 8081, 0}, running: []string{"agent"}, asked: rooms},
		"NoSuchName":  {reason: "Any of them may be the agent.", annotations: map[string]string{call.AgentContainerAnnotation: "agnet"}, ports: []int32{0, 8081, 0}, running: []string{"other"}, asked: both},
		"NobodySays":  {reason: "Any of them may be the agent.", ports: []int32{0, 0, 0}, running: []string{"other"}, asked: both},
		"TwoHaveIt":   {reason: "Either may be the agent.", ports: []int32{8081, 8081, 0}, running: []string{"helper"}, asked: both},
		"BadPort":     {reason: "An invalid port identifies no container.", annotations: map[string]string{call.WorkerPortAnnotation: "web"}, ports: []int32{8081, 0, 0}, running: []string{"helper"}, asked: both},
		"NothingRuns": {reason: "The kubelet says that all have ended.", ports: []int32{8081, 0, 0}, asked: none},
		"NotListed":   {reason: "Its own status is not there yet.", annotations: map[string]string{call.AgentContainerAnnotation: "late"}, ports: []int32{0, 0, 0}, running: []string{"agent"}, asked: both},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := fullPod()
			pod.Annotations, pod.Spec.Containers, pod.Status.ContainerStatuses = tc.annotations, nil, nil
			for i, name := range []string{"agent", "helper", "other"} {
				c := corev1.Container{Name: name}
				if tc.ports[i] != 0 {
					c.Ports = []corev1.ContainerPort{{ContainerPort: tc.ports[i]}}
				}
				status := corev1.ContainerStatus{Name: name}
				if slices.Contains(tc.running, name) {
					status.State.Running = &corev1.ContainerStateRunning{}
				}
				pod.Spec.Containers, pod.Status.ContainerStatuses = append(pod.Spec.Containers, c), append(pod.Status.ContainerStatuses, status)
			}
			for _, how := range []string{"whole", "trimmed"} {
				got, _ := FromPod(pod)
				asked := ""
				for i, w := range got.Witnesses {
					if got.Running && i > 0 {
						asked += ","
					}
					if got.Running {
						asked += string(w)
					}
				}
				if asked != tc.asked {
					t.Errorf("%s Of the pod %s, %q are asked; want %q", tc.reason, how, asked, tc.asked)
				}
				if _, err := trim(pod); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestStore(t *testing.T) {
	s := NewStore()
	name := types.NamespacedName{Namespace: "voice", Name: "db-0"}
	first := &call.Pod{NamespacedName: name, UID: "1"}
	second := &call.Pod{NamespacedName: name, UID: "2"}
	if !s.SetPod(first) || s.SetPod(first) {
		t.Error("SetPod must say of a pod once that it is new")
	}
	if s.Pod(name) != nil || s.ByUID("1") != nil || len(s.In("", func(*call.Pod) bool { return true })) != 0 {
		t.Error("a pod of a namespace that is not enabled has no effect")
	}
	s.SetObject(&Object{Kind: Namespace, NamespacedName: types.NamespacedName{Name: "voice"}})
	if s.Pod(name) != first {
		t.Error("enabling the namespace must show the pod")
	}
	s.SetPod(second)
	s.DeletePod(name, "1") // the late end of the first must not end the second
	if s.Pod(name) != second || s.ByUID("1") != nil || s.ByUID("2") != second {
		t.Error("the second pod of a name must take the first one's place")
	}
	s.DeletePod(name, "2")
	if s.Pod(name) != nil || s.ByUID("2") != nil {
		t.Error("a deleted pod must be gone")
	}
}

func TestWorkload(t *testing.T) {
	s := NewStore()
	controller := true
	o := fromObject(&appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "voice", Name: "web-1", UID: "rs",
			OwnerReferences: []metav1.OwnerReference{{Kind: Deployment, Name: "web", UID: "d", Controller: &controller}}},
		Spec: appsv1.ReplicaSetSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{call.GuardedLabel: "true"}}}},
	})
	if !o.Guarded {
		t.Error("the template's label makes a workload guarded")
	}
	s.SetObject(o)
	s.SetObject(&Object{Kind: Namespace, NamespacedName: types.NamespacedName{Name: "voice"}})
	pod := func(name string, owner call.Owner) {
		s.SetPod(&call.Pod{NamespacedName: types.NamespacedName{Namespace: "voice", Name: name}, UID: types.UID(name), Node: "node-1", Owner: owner})
	}
	pod("a", call.Owner{Kind: ReplicaSet, Name: "web-1", UID: "rs"})
	pod("aside", call.Owner{Kind: Deployment, Name: "web", UID: "d"})
	pod("bare", call.Owner{})
	inVoice := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "voice", Name: name} }
	check := func(reason, kind string, name types.NamespacedName, want ...string) {
		t.Helper()
		for what, found := range map[string][]*call.Pod{"Of": s.Of(kind, name), "By": s.By(kind, name.Namespace)[name]} {
			var got []string
			for _, p := range found {
				got = append(got, p.Name)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s -want, +got:\n%s", reason, what, diff)
			}
		}
	}
	check("A Deployment has the pods of its ReplicaSets and those set aside.", Deployment, inVoice("web"), "a", "aside")
	check("A ReplicaSet has its own.", ReplicaSet, inVoice("web-1"), "a")
	check("A node has those that run on it.", Node, types.NamespacedName{Name: "node-1"}, "a", "aside", "bare")
	check("A namespace has all.", Namespace, types.NamespacedName{Name: "voice"}, "a", "aside", "bare")
	s.DeleteObject(ReplicaSet, o.NamespacedName, "rs")
	check("A ReplicaSet that is gone leads nowhere.", Deployment, inVoice("web"), "aside")
}

// TestMadeAgain deletes a Deployment while orphans hold calls, and creates it again with the
// same name: they count for it, because it will get their callers' next calls. That is
// logged once.
func TestMadeAgain(t *testing.T) {
	var log bytes.Buffer
	w := &Watcher{store: NewStore(), onChange: func() {}, log: slog.New(slog.NewTextHandler(&log, nil))}
	meta := func(name, uid string, owner ...metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "voice", Name: name, UID: types.UID(uid), OwnerReferences: owner, Labels: map[string]string{"pod-template-hash": "1"}}
	}
	by := func(kind, name, uid string) metav1.OwnerReference {
		yes := true
		return metav1.OwnerReference{Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes}
	}
	deployment := func(uid string) *appsv1.Deployment { return &appsv1.Deployment{ObjectMeta: meta("web", uid)} }
	replicaSet := func(uid, of string) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: meta("web-1", uid, by(Deployment, "web", of))}
	}
	pod := func(name string, owner metav1.OwnerReference) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: meta(name, name, owner)}
	}
	w.setObject(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "voice"}})
	w.setObject(deployment("d"))
	w.setObject(replicaSet("rs", "d"))
	aside := pod("aside", by(Deployment, "web", "d"))
	aside.Labels["pod-template-hash"] = "1-aside"
	for _, p := range []*corev1.Pod{pod("a", by(ReplicaSet, "web-1", "rs")), aside, pod("bare", by(ReplicaSet, "web-2", "other"))} {
		w.setPod(p)
	}
	counts := func(reason string, want ...string) {
		t.Helper()
		name := types.NamespacedName{Namespace: "voice", Name: "web"}
		for what, found := range map[string][]*call.Pod{"Of": w.store.Of(Deployment, name), "By": w.store.By(Deployment, "voice")[name]} {
			var got []string
			for _, p := range found {
				got = append(got, p.Name)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s -want, +got:\n%s", reason, what, diff)
			}
		}
	}
	w.deleteObject(deployment("d"))
	w.deleteObject(replicaSet("rs", "d"))
	counts("Orphans have what they were.", "a", "aside")
	if log.Len() > 0 {
		t.Errorf("nothing was made again, and the log says: %s", &log)
	}
	w.setObject(deployment("d2"))
	w.setObject(replicaSet("rs2", "d2"))
	w.setPod(pod("new", by(ReplicaSet, "web-1", "rs2")))
	w.setObject(deployment("d2"))
	counts("The new one has its own and the orphans.", "a", "aside", "new")
	if n := strings.Count(log.String(), "Pods of an earlier workload with this name count as its own"); n != 1 {
		t.Errorf("it was said %d times: %s", n, &log)
	}
	w.deleteObject(deployment("d"))
	if w.store.Object(Deployment, types.NamespacedName{Namespace: "voice", Name: "web"}) == nil {
		t.Error("the late end of the first must not end the second")
	}
}

// TestLost reports a pod as lost with its node when the node is gone or silent, and the
// pod was given up.
func TestLost(t *testing.T) {
	s := NewStore()
	node := func(name string, taints ...corev1.Taint) {
		trimmed, err := trim(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}})
		if err != nil {
			t.Fatal(err)
		}
		s.SetObject(fromObject(trimmed))
	}
	node("well", corev1.Taint{Key: "team", Effect: corev1.TaintEffectNoExecute})
	node("cordoned", corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	node("silent", corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	cases := map[string]struct {
		reason string
		pod    call.Pod
		want   bool
	}{
		"Well":        {"Its node is heard.", call.Pod{Node: "well", State: call.Aside}, false},
		"Cordoned":    {"Its node is drained, not dead.", call.Pod{Node: "cordoned", State: call.Draining}, false},
		"Tolerated":   {"It has not been given up: it may come back.", call.Pod{Node: "silent", State: call.Serving}, false},
		"Aside":       {"It has been replaced.", call.Pod{Node: "silent", State: call.Aside}, true},
		"Draining":    {"It was given up in place.", call.Pod{Node: "silent", State: call.Draining}, true},
		"Terminating": {"Kubernetes deletes it.", call.Pod{Node: "silent", State: call.Serving, Terminating: true}, true},
		"Gone":        {"There is no such node.", call.Pod{Node: "gone", State: call.Serving, Terminating: true}, true},
		"Unscheduled": {"It never had a node.", call.Pod{State: call.Aside}, false},
	}
	for name, tc := range cases {
		if got := s.Lost(&tc.pod); got != tc.want {
			t.Errorf("%s: %s Lost = %t, want %t", name, tc.reason, got, tc.want)
		}
	}
}
