// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	shortWait    = 15 * time.Second // --replacement-wait in TestReplacementWait
	shortestHold = 5 * time.Second  // a drain deadline
	// replacedAgain is how long no other pod may be created after each pod of TestCordonAlone
	// was replaced: once, a new pod came every 18 s, without end.
	replacedAgain = 40 * time.Second
)

// scarcities are reasons why a Deployment of two has no room for a third pod.
func scarcities() map[string]func(*story) {
	return map[string]func(*story){
		"AntiAffinity": func(s *story) { s.deploy(2, oneAtATime, spread) },
		"Quota": func(s *story) {
			s.deploy(2, oneAtATime)
			s.full()
		},
	}
}

// oneAtATime is the strategy of Deployments without room for a third pod.
func oneAtATime(d *appsv1.Deployment) {
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &one}
}

// spread has at most one pod on each node.
func spread(d *appsv1.Deployment) {
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}},
		}},
	}}
}

// full limits the namespace to its two pods.
func (s *story) full() {
	s.t.Helper()
	const pods = 2
	quotas := stage.Client.CoreV1().ResourceQuotas(s.ns)
	_, err := quotas.Create(s.t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "full"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(pods, resource.DecimalSI)}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.eventually(soon, "the quota is full", func() (bool, error) {
		q, err := quotas.Get(s.t.Context(), "full", metav1.GetOptions{})
		return err == nil && q.Status.Used.Pods().Value() == pods, err
	})
}

// only returns the name of the only pod on a node.
func (s *story) only(node string) string {
	s.t.Helper()
	list := s.pods(on(node))
	if len(list) != 1 {
		s.t.Fatalf("%s has pods %v; want one: %s", node, list, s.watch.describe())
	}
	return list[0]
}

// notForced fails the story if an Event says that a pod was released by force.
func (s *story) notForced(pod string) {
	s.t.Helper()
	list, err := stage.Client.CoreV1().Events(s.ns).List(s.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",reason=" + guard.ReasonForced})
	s.must(err)
	for _, e := range list.Items {
		s.t.Errorf("pod %s holds no call, but its Event says that it might: %s", pod, e.Message)
	}
}

// TestOptOut removes callguard's label from a Deployment of two. Its new pods count as pods
// that take calls: the idle old one leaves, and the other after its call.
func TestOptOut(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2)
	s.fill()
	idle, busy := s.only(s.nodes[0]), s.only(s.nodes[1])
	s.hangUpOn(idle)
	s.does("patch", "deployment", lab.AgentName, "--type=merge", "-p",
		fmt.Sprintf(`{"spec":{"template":{"metadata":{"labels":{%q:null}}}}}`, call.GuardedLabel))
	s.gone(inTime, idle)
	s.eventually(inTime, "the busy one takes no new call", func() (bool, error) { return !s.watch.since(busy, call.Draining).IsZero(), nil })
	s.always(5*s1, "it talks on", func() (bool, error) { return s.talking(), nil })
	s.there(busy)
	s.hangUpOn(busy)
	s.gone(inTime, busy)
	s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=1m"), inTime)
	s.bounds(4, 2)
	s.noneDropped()
}

// TestRolloutWithoutRoom restarts a Deployment that has no room for a third pod, and gives
// the reason while it runs with one fewer. Each old pod leaves after its call, and makes room
// for a new one.
func TestRolloutWithoutRoom(t *testing.T) {
	t.Parallel()
	for name, scarce := range scarcities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, 2)
			scarce(s)
			s.fill()
			old := s.pods(all)
			s.does("rollout", "restart", "deployment/"+lab.AgentName)
			s.eventually(inTime, "an old pod takes no new call", func() (bool, error) { return len(s.pods(in(call.Draining))) == 1, nil })
			s.always(3*s1, "both talk, and one takes calls", func() (bool, error) { return s.talking() && s.watch.able() == 1, nil })
			s.there(old...)
			first := s.pods(in(call.Draining))
			s.hangUpOn(first...)
			s.gone(inTime, first...)
			s.hangUpAll()
			s.gone(inTime, old...)
			s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=1m"), inTime)
			s.bounds(3, 1)
			s.noneDropped()
		})
	}
}

// TestReplacementWait drains a node whose pod has no other place. It keeps serving while it
// has a call; once it is known to be idle and has waited, it leaves, and an Event says so.
func TestReplacementWait(t *testing.T) {
	withGuard(t, append(guardArgs(), "--replacement-wait="+shortWait.String())...)
	for name, scarce := range scarcities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, 2)
			scarce(s)
			s.fill()
			leaver := s.only(s.nodes[0])
			drain := s.drain(s.nodes[0])
			began := time.Now()
			s.told(s.ns, "Pod", leaver, guard.ReasonHeld, "too few others of its workload can take calls")
			s.hangUpOn(leaver)
			s.eventually(inTime, "it takes no new call", func() (bool, error) { return !s.watch.since(leaver, call.Draining).IsZero(), nil })
			if waited := s.watch.since(leaver, call.Draining).Sub(began); waited < shortWait-s1 {
				t.Errorf("it waited for %s; want --replacement-wait, %s", waited, shortWait)
			}
			s.told(s.ns, "Pod", leaver, guard.ReasonDraining, "it is idle, and replacements that can take calls have not come within --replacement-wait")
			s.ends(drain, inTime)
			s.gone(soon, leaver)
			s.notForced(leaver)
			s.bounds(3, 1)
			s.noneDropped()
		})
	}
	t.Run("Busy", func(t *testing.T) {
		t.Parallel()
		s := tell(t, 1)
		s.deploy(1)
		s.fill()
		only := s.pods(all)
		drain := s.drain(s.nodes[0])
		s.eventually(inTime, "it is aside", func() (bool, error) { return len(s.pods(in(call.Aside))) == 1, nil })
		s.always(shortWait+5*s1, "it talks, and takes calls", func() (bool, error) { return s.talking() && s.watch.able() == 1, nil })
		s.waits(drain)
		s.hangUpOn(only...)
		s.ends(drain, inTime)
		s.noneDropped()
	})
}

// TestDeadlineOfTheIdle has a team's deadline and one idle pod, and no other node. At the
// deadline the pod stops accepting calls. No Event says that calls were ended.
func TestDeadlineOfTheIdle(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(1, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations[call.DeadlineAnnotation] = shortestHold.String()
		d.Spec.Template.Annotations[call.OnDeadlineAnnotation] = "Release"
	})
	only := s.only(s.nodes[0])
	began := time.Now()
	drain := s.drain(s.nodes[0])
	s.ends(drain, inTime)
	s.gone(soon, only)
	t.Logf("its drain took %.1f s, of which its deadline is %s", drain.ended.Sub(began).Seconds(), shortestHold)
	s.told(s.ns, "Pod", only, guard.ReasonDraining, "its own callguard.dev/drain-deadline has passed")
	s.notForced(only)
	s.bounds(2, 0)
	s.noneDropped()
}

// TestDrainWhileNobodyIsReady drains a node while no pod of the workload is ready, and none
// becomes ready. The idle pod leaves within minutes.
func TestDrainWhileNobodyIsReady(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	d := lab.Agent(s.ns, 2)
	d.Spec.Template = s.template()
	d.Spec.Template.Annotations[fleet.ProbedAnnotation] = "true"
	d.Spec.Template.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/never", Port: intstr.FromInt32(8081)}},
	}
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), d, metav1.CreateOptions{})
	s.must(err)
	s.eventually(inTime, "two agents run, of which none is ready", func() (bool, error) { return len(s.agents()) == 2 && s.watch.able() == 0, nil })
	leavers := s.pods(on(s.nodes[0]))
	drain := s.drain(s.nodes[0])
	s.ends(drain, 2*inTime)
	s.gone(soon, leavers...)
	s.told(s.ns, "Pod", leavers[0], guard.ReasonDraining, "it is idle, and has not been ready for a minute")
	s.noneDropped()
}

// TestCordonAlone cordons the node of pods that tolerate it, and that are replaced in place
// or not at all. Each is replaced once, and pods created after the cordon stay.
func TestCordonAlone(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	one := int32(1)
	template := func(kind string) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
		p := s.template()
		p.Labels["kind"] = kind
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}}
		return &metav1.LabelSelector{MatchLabels: map[string]string{"kind": kind}}, p
	}
	apps, ctx := stage.Client.AppsV1(), t.Context()
	var mu sync.Mutex
	born := map[string][]types.UID{}
	s.watch.whenSeen(func(p *corev1.Pod) {
		mu.Lock()
		defer mu.Unlock()
		if kind := p.Labels["kind"]; !slices.Contains(born[kind], p.UID) {
			born[kind] = append(born[kind], p.UID)
		}
	})
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: s.ns, Name: name} }
	selector, pod := template("stateful")
	_, err := apps.StatefulSets(s.ns).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta("stateful"), Spec: appsv1.StatefulSetSpec{Replicas: &one, Selector: selector, Template: pod}}, metav1.CreateOptions{})
	s.must(err)
	selector, pod = template("recreate")
	_, err = apps.Deployments(s.ns).Create(ctx, &appsv1.Deployment{ObjectMeta: meta("recreate"), Spec: appsv1.DeploymentSpec{
		Replicas: &one, Selector: selector, Template: pod, Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
	}}, metav1.CreateOptions{})
	s.must(err)
	selector, pod = template("bare")
	_, err = apps.ReplicaSets(s.ns).Create(ctx, &appsv1.ReplicaSet{ObjectMeta: meta("bare"), Spec: appsv1.ReplicaSetSpec{Replicas: &one, Selector: selector, Template: pod}}, metav1.CreateOptions{})
	s.must(err)
	s.steady(3)

	s.does("cordon", s.nodes[0])
	twoOfEach := func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(born["stateful"]) == 2 && len(born["recreate"]) == 2 && len(born["bare"]) == 2, nil
	}
	s.eventually(inTime, "each pod was replaced", twoOfEach)
	s.always(replacedAgain, "no pod is replaced again", twoOfEach)
	if n := s.watch.able(); n != 3 {
		t.Errorf("%d pods can take calls; want the three new ones: %s", n, s.watch.describe())
	}
	s.bounds(3+2, 0) // a ReplicaSet replaces a pod while it ends
	s.noneDropped()
}

// TestDaemonSetLeavesNode: a DaemonSet of agents no longer wants its nodes. Two lose the
// label that it selects, and two get a taint that its pods do not tolerate. The idle pods
// leave at once, and the others after their calls.
func TestDaemonSetLeavesNode(t *testing.T) {
	t.Parallel()
	s := tell(t, 4)
	_, err := stage.Client.AppsV1().DaemonSets(s.ns).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: lab.AgentName},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": lab.AgentName}}, Template: s.template()},
	}, metav1.CreateOptions{})
	s.must(err)
	s.steady(4)
	s.fill()
	for _, wish := range []struct{ idle, busy, patch string }{
		{s.nodes[0], s.nodes[1], fmt.Sprintf(`{"metadata":{"labels":{%q:null}}}`, storyLabel)},
		{s.nodes[2], s.nodes[3], `{"spec":{"taints":[{"key":"example.com/gone","effect":"NoExecute"}]}}`},
	} {
		idle, busy := s.only(wish.idle), s.only(wish.busy)
		s.hangUpOn(idle)
		s.patchNode(t.Context(), wish.idle, wish.patch)
		s.patchNode(t.Context(), wish.busy, wish.patch)
		s.gone(soon, idle)
		s.eventually(inTime, "the busy one takes no new call", func() (bool, error) { return !s.watch.since(busy, call.Draining).IsZero(), nil })
		s.always(3*s1, "it talks on", func() (bool, error) { return s.talking(), nil })
		s.there(busy)
		s.hangUpOn(busy)
		s.gone(inTime, busy)
	}
	s.bounds(4, 0)
	s.noneDropped()
}

// TestCrashedAgentBesideAnother: an agent does not restart, next to a container that keeps
// running. Its HTTP server does not answer, and that is no reason to wait.
func TestCrashedAgentBesideAnother(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	d := lab.Agent(s.ns, 1)
	d.Spec.Template = s.template()
	d.Spec.Template.Annotations[call.AgentContainerAnnotation] = "agent"
	d.Spec.Template.Labels[fleet.UnplayedLabel] = "true"
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(shortGrace)) // the other container ends within it
	d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: "helper", Image: "helper:demo"})
	_, err := stage.Client.AppsV1().Deployments(s.ns).Create(t.Context(), d, metav1.CreateOptions{})
	s.must(err)
	s.eventually(inTime, "its pod runs", func() (bool, error) { return s.watch.able() == 1, nil })
	crashed := s.pods(all)
	pod, err := stage.Client.CoreV1().Pods(s.ns).Get(t.Context(), crashed[0], metav1.GetOptions{})
	s.must(err)
	s.must(crash(t.Context(), pod))
	drain := s.drain(pod.Spec.NodeName)
	s.ends(drain, inTime)
	s.gone(soon, crashed...)
	s.told(s.ns, "Deployment", lab.AgentName, guard.ReasonReleased, pod.Name+" may go (drain): its calls are over")
	s.noneDropped()
}

// crash writes what a kubelet reports about a pod whose agent keeps crashing.
func crash(ctx context.Context, pod *corev1.Pod) error {
	config, err := stage.Cluster.NodeConfig(pod.Spec.NodeName)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	statuses := slices.Clone(pod.Status.ContainerStatuses)
	for i := range statuses {
		if statuses[i].Name == "agent" {
			statuses[i].Ready, statuses[i].Started, statuses[i].RestartCount = false, new(bool), 5
			statuses[i].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		}
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"conditions":        []map[string]any{{"type": corev1.ContainersReady, "status": "False"}, {"type": corev1.PodReady, "status": "False"}},
		"containerStatuses": statuses,
	}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// TestBarePodOnACordonedNode: no controller would create this pod again. A cordon makes it
// stop accepting calls and does not end it; a drain does.
func TestBarePodOnACordonedNode(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	template := s.template()
	s.eventually(soon, "it is made, once its namespace has a service account", func() (bool, error) {
		_, err := stage.Client.CoreV1().Pods(s.ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "bare", Labels: template.Labels, Annotations: template.Annotations}, Spec: template.Spec,
		}, metav1.CreateOptions{})
		return err == nil, err
	})
	s.steady(1)
	s.does("cordon", s.nodes[0])
	s.eventually(inTime, "it is released", func() (bool, error) { return !s.watch.since("bare", call.Released).IsZero(), nil })
	s.told(s.ns, "Pod", "bare", guard.ReasonLeft, "kubectl drain "+s.nodes[0])
	s.always(settle, "it is there", func() (bool, error) { return len(s.pods(all)) == 1, nil })
	s.there("bare")
	s.ends(s.drain(s.nodes[0], "--force"), inTime)
	s.gone(soon, "bare")
	s.noneDropped()
}
