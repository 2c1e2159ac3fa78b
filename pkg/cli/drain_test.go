// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/test/trial"
)

// evictions answers evictions, and records them.
type evictions struct {
	mu    sync.Mutex
	asked []policyv1.Eviction
	// answer is the error of the nth eviction of a pod, from 1.
	answer func(pod string, n int) error
	tries  map[string]int
}

// on makes the stage answer this way. An evicted pod is gone.
func (e *evictions) on(s *stage) {
	e.tries = map[string]int{}
	s.fake.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create, is := a.(clienttesting.CreateAction)
		if !is || a.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		eviction, is := create.GetObject().(*policyv1.Eviction)
		if !is {
			return true, nil, fmt.Errorf("evicted with a %T", create.GetObject())
		}
		e.mu.Lock()
		e.asked = append(e.asked, *eviction)
		e.tries[eviction.Name]++
		err := e.answer(eviction.Name, e.tries[eviction.Name])
		e.mu.Unlock()
		if err != nil {
			return true, nil, err
		}
		return true, nil, s.fake.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), eviction.Namespace, eviction.Name)
	})
}

// pace is how often a drain of these tests checks and retries.
const pace = 50 * time.Millisecond

func tooMany() error { return apierrors.NewTooManyRequests("disruption budget callguard", 0) }

// newDrainStage is one with two guarded pods on node-1 that could be drained.
func newDrainStage(t *testing.T, objects ...runtime.Object) *stage {
	t.Helper()
	s := newStage(t, append(append(workload(2), newNode(false), newNamespace(voice, true), newBudget(voice), newGuardDeployment(),
		newPod("a", draining), newPod("b", draining)), objects...)...)
	s.calls = map[string]int64{"a": 0, "b": 1}
	return s
}

func cordoned(t *testing.T, s *stage) bool {
	t.Helper()
	node, err := s.client.CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node.Spec.Unschedulable
}

// TestDrain: a pod's call ends once the drain has printed that it waits for it.
func TestDrain(t *testing.T) {
	s := newDrainStage(t)
	since := clock(noon().Add(-2 * time.Minute))
	held, out := "voice/b: draining since "+since+", 1 call: it holds calls\n", &trial.Log{}
	e := &evictions{answer: func(pod string, n int) error {
		if pod == "b" && (n == 1 || !strings.Contains(out.String(), held)) {
			return tooMany()
		}
		return nil
	}}
	e.on(s)
	common, _, _ := newCommon()
	common.Out = out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := drainOptions{common: common, pace: pace}
	if err := o.run(ctx, s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	if !cordoned(t, s) {
		t.Error("the node is not cordoned")
	}
	for _, want := range []string{
		"node/node-1 cordoned\n", held, "of 2 pods left, with 1 call\n",
		"voice/a: gone\n", "voice/b: gone\n", "node/node-1 drained: 2 pods left it in 0s\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	for _, eviction := range e.asked {
		if eviction.DeleteOptions.GracePeriodSeconds != nil {
			t.Errorf("pod %s is evicted with a grace of %d; want its own", eviction.Name, *eviction.DeleteOptions.GracePeriodSeconds)
		}
	}
	for _, a := range s.fake.Actions() {
		if a.GetVerb() == "delete" && a.GetResource().Resource == "pods" {
			if d, is := a.(clienttesting.DeleteActionImpl); !is || len(d.DeleteOptions.DryRun) == 0 {
				t.Errorf("it deletes a pod: %v", a)
			}
		}
	}
}

// TestDrainWithoutGuard: the guard dies during a drain, and another one takes over.
func TestDrainWithoutGuard(t *testing.T) {
	s := newDrainStage(t)
	const lost, again = "no drain-guard leads: there is no lease callguard-system/drain-guard, and guarded pods stay until one does; see Deployment callguard-system/drain-guard\n", "guard-1 leads again\n"
	out, asked := &trial.Log{}, 0
	s.fake.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if !strings.Contains(out.String(), "cordoned") || asked == 3 {
			return false, nil, nil
		}
		asked++
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, leader.LeaseName)
	})
	e := &evictions{answer: func(string, int) error {
		if !strings.Contains(out.String(), again) {
			return tooMany()
		}
		return nil
	}}
	e.on(s)
	common, _, _ := newCommon()
	common.Out = out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := drainOptions{common: common, pace: pace, leaderPace: pace}
	if err := o.run(ctx, s.cluster, "node-1"); err != nil {
		t.Fatalf("%v; it says:\n%s", err, out)
	}
	for _, once := range []string{lost, again} {
		if n := strings.Count(out.String(), once); n != 1 {
			t.Errorf("it says %d times, want once: %q\n%s", n, once, out)
		}
	}
}

// TestDrainInterrupted is Ctrl-C, and a timeout, while a pod holds a call.
func TestDrainInterrupted(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"interrupted": 0, "--timeout is over": time.Second} {
		t.Run(name, func(t *testing.T) {
			s := newDrainStage(t)
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			e := &evictions{answer: func(pod string, _ int) error {
				if pod == "a" {
					return nil
				}
				if timeout == 0 {
					interrupt()
				}
				return tooMany()
			}}
			e.on(s)
			common, _, errOut := newCommon()
			o := drainOptions{common: common, pace: pace, timeout: timeout, ignoreDaemonSets: true, deleteEmptyDirData: true}
			if err := o.run(ctx, s.cluster, "node-1"); !errors.Is(err, errWaiting) {
				t.Fatalf("it ends with %v; want %v", err, errWaiting)
			}
			for _, want := range []string{
				name + ": node node-1 stays cordoned; left on it: ", "  voice/b: draining since ", "1 call: it holds calls\n", "Their calls go on",
				"To go on: kubectl calls drain node-1 --delete-emptydir-data\n", "kubectl uncordon node-1",
			} {
				if !strings.Contains(errOut.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, errOut)
				}
			}
		})
	}
}

// TestDrainFails: an eviction is refused for good. That is printed at once, and the other pod leaves.
func TestDrainFails(t *testing.T) {
	s := newDrainStage(t)
	e := &evictions{answer: func(pod string, _ int) error {
		if pod == "a" {
			return apierrors.NewInternalError(errors.New("two budgets"))
		}
		return nil
	}}
	e.on(s)
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace}
	err := o.run(t.Context(), s.cluster, "node-1")
	if err == nil || !strings.Contains(err.Error(), "is not empty, and stays cordoned") || !strings.Contains(err.Error(), "two budgets") || !strings.Contains(err.Error(), "kubectl calls drain node-1") {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out.String(), "voice/a cannot be evicted: ") || !strings.Contains(out.String(), "voice/b: gone") {
		t.Errorf("it says:\n%s", out)
	}
}

func TestDryRun(t *testing.T) {
	s := newDrainStage(t, newPod("web", unguarded), otherWeb())
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace, dryRun: true}
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	since := clock(noon().Add(-2 * time.Minute))
	want := "voice/a would be evicted: draining since " + since + ", no call: it is idle; waiting in case a call is still being connected\n" +
		"voice/b would be evicted: draining since " + since + ", 1 call: it holds calls\n" +
		"voice/web would be evicted: not guarded; its own PodDisruptionBudget web allows no disruption now\n" +
		"node/node-1 would be cordoned and drained (dry run)\n"
	if out.String() != want {
		t.Errorf("it says:\n%s\nwant:\n%s", out, want)
	}
	if cordoned(t, s) {
		t.Error("the node is cordoned")
	}
}

// otherWeb is a budget of pods that are not guarded.
func otherWeb() *policyv1.PodDisruptionBudget {
	pdb := otherBudget("web")
	pdb.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: call.GuardedLabel, Operator: metav1.LabelSelectorOpDoesNotExist}}
	return pdb
}

// emptyDir has a volume that goes with the pod.
func emptyDir(name string) edit {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
}

// journal is the gated pod of README.
func journal(p *corev1.Pod) {
	gated(true, time.Hour)(p)
	gate := &p.Spec.InitContainers[0]
	gate.Command = []string{"/call-gate", "--order-file=/podinfo/annotations", "--journal=/journal"}
	gate.VolumeMounts = []corev1.VolumeMount{{Name: "podinfo", MountPath: "/podinfo"}, {Name: "journal", MountPath: "/journal"}}
	emptyDir("journal")(p)
}

// TestDrainOfAGatedPod needs no flag for the gate's journal, nor for a pod of a DaemonSet, which is left with a note.
func TestDrainOfAGatedPod(t *testing.T) {
	yes := true
	s := newDrainStage(t, newPod("gated", journal), newPod("of-ds", unguarded, func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "logs", UID: "logs", Controller: &yes}}
	}), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "logs", UID: "logs"}})
	(&evictions{answer: func(string, int) error { return nil }}).on(s)
	common, out, errOut := newCommon()
	o := drainOptions{common: common, pace: pace, ignoreDaemonSets: true}
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "voice/gated: gone\n") || !strings.Contains(out.String(), "node/node-1 drained: 3 pods left it") {
		t.Errorf("it says:\n%s", out)
	}
	if want := "Warning: ignoring DaemonSet-managed Pods: voice/of-ds\n"; errOut.String() != want {
		t.Errorf("it notes %q; want %q", errOut, want)
	}
}

// TestDrainOfUnprotectedPods: with the flag that gives up their calls the drain continues, and
// names the pods whose calls end.
func TestDrainOfUnprotectedPods(t *testing.T) {
	s := newDrainStage(t, labelledNamespace("off", "yes"), newPod("x", in("off")))
	const off = `not protected, so its calls end with it: namespace off is not enabled (its label callguard.dev/enabled is "yes", not "true")`
	(&evictions{answer: func(string, int) error { return nil }}).on(s)
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace, endUnprotected: true, dryRun: true}
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	if want := "off/x would be evicted: " + off + "\n"; !strings.Contains(out.String(), want) {
		t.Errorf("it does not say %q:\n%s", want, out)
	}
	o.dryRun = false
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "off/x: gone\n") {
		t.Errorf("it says:\n%s", out)
	}
	if got, want := o.command("node-1"), "kubectl calls drain node-1 --end-unprotected-calls --ignore-daemonsets=false"; got != want {
		t.Errorf("it goes on with %q; want %q", got, want)
	}
}

// TestSecondBudgetInMidDrain: a second budget appears, with which evictions answer 500 until it is deleted.
func TestSecondBudgetInMidDrain(t *testing.T) {
	s := newDrainStage(t)
	out := &trial.Log{}
	const said = "voice/b cannot be evicted yet, and is tried again: PodDisruptionBudget second matches it beside callguard's; delete it, and use annotation callguard.dev/min-available of the workload\n"
	e := &evictions{answer: func(pod string, n int) error {
		switch {
		case pod == "a" || n > 4 && strings.Contains(out.String(), said):
			return nil
		case n == 1:
			if err := s.fake.Tracker().Add(otherBudget("second")); err != nil {
				t.Error(err)
			}
		}
		return apierrors.NewInternalError(errors.New("this pod has more than one PodDisruptionBudget"))
	}}
	e.on(s)
	common, _, _ := newCommon()
	common.Out = out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := drainOptions{common: common, pace: pace}
	if err := o.run(ctx, s.cluster, "node-1"); err != nil {
		t.Fatalf("%v; it says:\n%s", err, out)
	}
	if n := strings.Count(out.String(), said); n != 1 {
		t.Errorf("it says %d times, want once: %q\n%s", n, said, out)
	}
	if !strings.Contains(out.String(), "voice/b: gone\n") {
		t.Errorf("it says:\n%s", out)
	}
}

// TestDrainOfSeveralNodes cordons all nodes before it evicts any pod, and each line names its node.
func TestDrainOfSeveralNodes(t *testing.T) {
	second := newNode(false)
	second.Name, second.UID, second.Labels = "node-2", "node-2", map[string]string{"pool": "old"}
	s := newDrainStage(t, second, newPod("c", draining, func(p *corev1.Pod) { p.Spec.NodeName = "node-2" }))
	s.calls["c"] = 0
	(&evictions{answer: func(string, int) error {
		is, err := s.fake.Tracker().Get(corev1.SchemeGroupVersion.WithResource("nodes"), "", "node-2")
		if node, _ := is.(*corev1.Node); err != nil || !node.Spec.Unschedulable {
			t.Errorf("a pod is evicted before node-2 is cordoned: %v", err)
		}
		return nil
	}}).on(s)
	names, err := s.nodeNames(t.Context(), nil, "pool=old")
	if err != nil || len(names) != 1 || names[0] != "node-2" {
		t.Errorf("the nodes of a selector are %v, %v", names, err)
	}
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace}
	if err := o.run(t.Context(), s.cluster, "node-1", "node-2"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"node/node-1 cordoned\nnode/node-2 cordoned\n", "node/node-1: ", "node/node-1 drained: ", "node/node-2 drained: ", "voice/c: gone\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
}

// TestDrainWithoutWaiting evicts each pod once, and leaves those that hold calls to callguard.
func TestDrainWithoutWaiting(t *testing.T) {
	s := newDrainStage(t)
	e := &evictions{answer: func(pod string, _ int) error {
		if pod == "b" {
			return tooMany()
		}
		return nil
	}}
	e.on(s)
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace, ignoreDaemonSets: true, detach: true}
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	const want = "node/node-1 cordoned\nvoice/a: ends\n1 pod held for calls: callguard lets each go after its last one, and deletes it\n" +
		"To see what is left: kubectl calls status node-1\nTo go on: kubectl calls drain node-1\n"
	if out.String() != want || len(e.asked) != 2 {
		t.Errorf("after %d evictions it says:\n%s\nwant 2, and:\n%s", len(e.asked), out, want)
	}
}

// TestDryRunOfUnknownCalls: the output and the exit code say that the drain could not end; if only the plugin cannot read
// calls, the output says that.
func TestDryRunOfUnknownCalls(t *testing.T) {
	cases := map[string]struct {
		reason  string
		metrics error
		want    string
		err     error
	}{
		"Pod": {reason: "None of its witnesses answers.", err: errWaiting,
			want: "Warning: as things are the drain could not end: of 1 pod the calls are not known, such as voice/b: no witness of it answers; unknown is not zero, and a pod stays until its calls are known\n"},
		"LiveKit": {reason: "The number is unknown.", err: errWaiting, metrics: apierrors.NewServiceUnavailable("active_calls is not known: LiveKit is silent"),
			want: "Warning: as things are the drain could not end: of 2 pods the calls are not known, such as voice/a: "},
		"Plugin": {reason: "The guard has its own witnesses.", metrics: apierrors.NewServiceUnavailable("the server is currently unable to handle the request"),
			want: "Warning: whether the drain could end is not known here: of 2 pods the calls are not, such as voice/a: the metrics API does not answer: "},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newDrainStage(t)
			delete(s.calls, "b")
			s.metrics = tc.metrics
			common, _, errOut := newCommon()
			o := drainOptions{common: common, pace: pace, dryRun: true}
			if err := o.run(t.Context(), s.cluster, "node-1"); !errors.Is(err, tc.err) {
				t.Errorf("%s It ends with %v; want %v", tc.reason, err, tc.err)
			}
			if !strings.Contains(errOut.String(), tc.want) {
				t.Errorf("%s It does not say %q:\n%s", tc.reason, tc.want, errOut)
			}
		})
	}
}

// TestWithCalls: a number that covers only some pods is not shown as the number of all.
func TestWithCalls(t *testing.T) {
	for want, n := range map[string][2]int{
		", with no call": {0, 0}, ", with 1 call": {1, 0}, ", with 3 calls": {3, 0},
		"; of 2 pods the calls are not known": {0, 2}, ", with 1 call or more; of 1 pod the calls are not known": {1, 1},
	} {
		if got := withCalls(n[0], n[1]); got != want {
			t.Errorf("%d known calls, %d pods unknown: %q; want %q", n[0], n[1], got, want)
		}
	}
}

// TestRefused: a drain that could lose a call or hang forever is refused, and nothing is
// changed.
func TestRefused(t *testing.T) {
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		change  func(*testing.T, *stage)
		want    string
	}{
		"Foreign": {reason: "Its eviction answers 500.", objects: []runtime.Object{otherBudget("second")}, want: "PodDisruptionBudget voice/second matches guarded pods, such as a, beside callguard's"},
		"NotEnabled": {reason: "Nothing holds its calls.", objects: []runtime.Object{newNamespace("off", false), newPod("x", in("off"))},
			want: "namespace off is not enabled, so nothing holds the calls of its guarded pods, such as x; an administrator enables it: kubectl label namespace off callguard.dev/enabled=true; to end the calls of 1 pod, and go on: --end-unprotected-calls"},
		"OtherValue": {reason: "Neither does another value.", objects: []runtime.Object{labelledNamespace("off", "True"), newPod("x", in("off"))},
			want: "kubectl label namespace off callguard.dev/enabled=true --overwrite"},
		"NoBudget": {reason: "Evictions are not refused.", want: "PodDisruptionBudget voice/callguard is missing, so calls could be lost", change: func(t *testing.T, s *stage) {
			t.Helper()
			if err := s.client.PolicyV1().PodDisruptionBudgets(voice).Delete(t.Context(), guard.BudgetName, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		"Door": {reason: "Somebody could delete a pod.", want: "callguard's admission policies are not known to be in effect, so a call could be lost: ValidatingAdmissionPolicyBinding callguard-delete is missing; apply the chart again", change: func(t *testing.T, s *stage) {
			t.Helper()
			if err := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(t.Context(), "callguard-delete", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		"OpenDoor": {reason: "It exists, but does not act.", want: "the API server would delete pod voice/a, which is locked", change: func(_ *testing.T, s *stage) {
			s.fake.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
		}},
		"DoorUnread": {reason: "What cannot be read does not count as fine.", want: "you need the right to get them", change: func(_ *testing.T, s *stage) {
			for _, door := range []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"} {
				s.refuse("get", door)
			}
		}},
		"BudgetsUnread":    {reason: "Neither is this.", want: "cannot list the PodDisruptionBudgets", change: func(_ *testing.T, s *stage) { s.refuse("list", "poddisruptionbudgets") }},
		"NamespacesUnread": {reason: "Nor this.", want: "cannot tell whether namespace voice is enabled", change: func(_ *testing.T, s *stage) { s.refuse("get", "namespaces") }},
		"NoGuard": {reason: "No guard would release the pods.", want: "no drain-guard leads", change: func(_ *testing.T, s *stage) {
			s.fake.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, leader.LeaseName)
			})
		}},
		"Unlocked": {reason: "Nothing holds its calls.", objects: []runtime.Object{newPod("u", released(call.Unlock))}, want: "pod voice/u was unlocked"},
		"Pending":  {reason: "It is evicted past its budget.", objects: []runtime.Object{newPod("p", pending)}, want: "pod voice/p is Pending while a container of it runs"},
		"Data": {reason: "Somebody may miss it.", objects: []runtime.Object{newPod("d", emptyDir("data"))},
			want: "cannot evict pods with emptyDir volumes, whose data would be deleted (use --delete-emptydir-data to continue): voice/d"},
		"DataBesideAJournal": {reason: "Only the journal is exempt, nothing else of its pod.", objects: []runtime.Object{newPod("d", journal, emptyDir("data"))}, want: "(use --delete-emptydir-data to continue): voice/d"},
		"SharedJournal": {reason: "Other data that the agent writes counts.", objects: []runtime.Object{newPod("d", journal, func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "agent", VolumeMounts: []corev1.VolumeMount{{Name: "journal", MountPath: "/data"}}}}
		})}, want: "(use --delete-emptydir-data to continue): voice/d"},
		"Unmanaged":  {reason: "As kubectl drain.", objects: []runtime.Object{newPod("bare", func(p *corev1.Pod) { p.OwnerReferences = nil })}, want: "use --force to override"},
		"NoEviction": {reason: "Nothing is deleted instead.", want: "the API server serves no evictions", change: func(_ *testing.T, s *stage) { s.fake.Resources[0].APIResources = nil }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newDrainStage(t, tc.objects...)
			if tc.change != nil {
				tc.change(t, s)
			}
			common, out, _ := newCommon()
			o := drainOptions{common: common, pace: pace}
			err := o.run(t.Context(), s.cluster, "node-1")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s\nerror %v; want %q", tc.reason, err, tc.want)
			}
			if out.Len() > 0 || cordoned(t, s) {
				t.Errorf("%s\nit went on: %s", tc.reason, out)
			}
		})
	}
}

// TestNotesOfDrain: the drain continues if nothing can be lost, and prints what is unknown.
func TestNotesOfDrain(t *testing.T) {
	s := newDrainStage(t)
	s.refuse("get", "leases")
	s.refuse("delete", "pods")
	(&evictions{answer: func(string, int) error { return nil }}).on(s)
	common, _, errOut := newCommon()
	o := drainOptions{common: common, pace: pace}
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Warning: whether a drain-guard leads is not known: ", "Warning: policy callguard-delete exists, and was not tried: "} {
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, errOut)
		}
	}
	if err := o.run(t.Context(), s.cluster, "node-9"); err == nil || err.Error() != `there is no node "node-9"; kubectl get nodes lists them` {
		t.Errorf("of a node that is not there it says %v", err)
	}
}

// TestProgress prints changes once, and never zero for unknown.
func TestProgress(t *testing.T) {
	s := newDrainStage(t)
	var out bytes.Buffer
	w := newProgress(s.cluster, s.administered(t.Context()), &lines{to: &out}, "node-1")
	pods := []*corev1.Pod{newPod("a", draining), newPod("b", draining)}
	delete(s.calls, "a")
	look := func() {
		left, err := w.left(t.Context(), pods)
		if err != nil {
			t.Fatal(err)
		}
		w.show(t.Context(), left, len(pods))
	}
	look()
	first := out.String()
	look()
	if out.String() != first {
		t.Errorf("it repeats itself:\n%s", out.String())
	}
	for _, want := range []string{"voice/a: draining since", "calls unknown: its witness rooms cannot tell", "2 of 2 pods left, with 1 call or more; of 1 pod the calls are not known"} {
		if !strings.Contains(first, want) {
			t.Errorf("it does not say %q:\n%s", want, first)
		}
	}
	s.metrics = apierrors.NewServiceUnavailable("the server is currently unable to handle the request")
	look()
	if want := "calls unknown: without the metrics API its calls are not known here; the guard asks its witnesses itself"; !strings.Contains(out.String(), want) {
		t.Errorf("it does not say %q:\n%s", want, out.String())
	}
	s.metrics = nil
	s.refuse("list", "replicasets")
	look()
	if !strings.Contains(out.String(), "why pods of namespace voice stay is not known: cannot list the ReplicaSets") {
		t.Errorf("without a right it does not say which:\n%s", out.String())
	}
}
