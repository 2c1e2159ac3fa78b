// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/events"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/test/trial"
)

// onEach is the same Event on each of the objects.
func onEach(event string, objects ...string) (events []string) {
	kind, text, _ := strings.Cut(event, ": ")
	for _, o := range objects {
		events = append(events, kind+" on "+o+": "+text)
	}
	return slices.Sorted(slices.Values(events))
}

// hear collects a guard's Events, those on pods without delay. The function it returns stops that, and lists
// them.
func hear(g *Guard) (told func() []string) {
	heard := &trial.Events{}
	g.report.events, g.report.steps = heard, events.NewOutbox(heard)
	return func() []string {
		ended, end := context.WithCancel(context.Background())
		end()
		g.report.steps.Run(ended)
		return slices.Sorted(slices.Values(heard.List()))
	}
}

// TestEvents: everything that the guard reports, on which objects, and what it counts.
func TestEvents(t *testing.T) {
	cordoned, fine, ending := newNode(true), newNode(false), newNode(true)
	ending.Annotations = map[string]string{terminationAnnotation: noon().Add(2 * time.Minute).Format(time.RFC3339)}
	elsewhere := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }
	grace := func(seconds int64) edit {
		return func(o metav1.Object) { o.(*corev1.Pod).Spec.TerminationGracePeriodSeconds = &seconds }
	}
	// It has accepted no new calls since a minute before noon, and its calls are unknown.
	leaver := func(edits ...edit) *corev1.Pod { return asidePod("a", append([]edit{draining}, edits...)...) }
	deadline := func(after, then string) edit {
		return func(o metav1.Object) {
			o.GetAnnotations()[call.DeadlineAnnotation], o.GetAnnotations()[call.OnDeadlineAnnotation] = after, then
		}
	}
	web := func(objects ...runtime.Object) []runtime.Object {
		return append(objects, newDeployment("web", 1), newReplicaSet("1", 1))
	}
	once := []int{0}
	cases := map[string]struct {
		reason   string
		objects  []runtime.Object
		limits   verdict.Limits
		workload Key   // Deployment web when empty
		looks    []int // seconds after noon
		want     []string
		forced   int
		audit    string // text of the log line for audits
	}{
		"SetAside": {
			reason: "Whoever describes the pod, its workload or its node reads why.", objects: web(cordoned, webPod("a")), looks: once,
			want: onEach("Normal SetAside: Pod voice/a is set aside (drain): a replacement comes first", "Pod voice/a", "Deployment voice/web", "Node node-1"),
		},
		"Draining": {
			reason: "The next step is another Event.", objects: web(cordoned, asidePod("a"), webPod("b", elsewhere)), looks: once,
			want: onEach("Normal Draining: Pod voice/a stopped accepting calls (drain): enough other pods can take calls", "Pod voice/a", "Deployment voice/web", "Node node-1"),
		},
		"Released": {
			reason: "So is the last.", objects: web(cordoned, leaver(ended), webPod("b", elsewhere)), looks: once,
			want: onEach("Normal Released: Pod voice/a may go (drain): its agent does not run", "Pod voice/a", "Deployment voice/web", "Node node-1"),
		},
		"NotOfNode": {
			reason: "A node has nothing to do with a scale-down.", objects: []runtime.Object{fine, newDeployment("web", 0), newReplicaSet("1", 0), webPod("a", ended)}, looks: once,
			want: onEach("Normal Draining: Pod voice/a stopped accepting calls (scale-down): its agent does not run", "Pod voice/a", "Deployment voice/web"),
		},
		"BarePod": {
			reason: "A pod that is its own workload gets one Event.", objects: []runtime.Object{cordoned, newPod("bare", draining, ended)}, workload: Key{NamespacedName: voicePod("bare"), APIVersion: "v1", Kind: "Pod", UID: "bare"}, looks: once,
			want: onEach("Normal Released: Pod voice/bare may go (drain): its agent does not run", "Pod voice/bare", "Node node-1"),
		},
		"Held": {
			reason: "A hold of five seconds is worth an Event, and only one.", objects: web(cordoned, leaver(), webPod("b", elsewhere)), looks: []int{0, 4, 5, 6, 60},
			want: onEach("Normal Held: Pod voice/a stays (drain): its witness rooms cannot tell whether it holds calls: there is no answer yet", "Pod voice/a", "Deployment voice/web", "Node node-1"),
		},
		"HeldBriefly": {reason: "A shorter one is not.", objects: web(cordoned, leaver(), webPod("b", elsewhere)), looks: []int{0, 4}},
		"OwnDeadline": {
			reason: "Calls may be cut: a warning, counted, with a line for audits.", objects: web(cordoned, leaver(deadline("4s", "Release")), webPod("b", elsewhere)), looks: []int{0, 4},
			want:   onEach("Warning ForcedRelease: Pod voice/a may go (drain): its own callguard.dev/drain-deadline has passed", "Pod voice/a", "Deployment voice/web", "Node node-1"),
			forced: 1, audit: `level=WARN msg="Pod is released by force" pod=voice/a uid=a intent=drain rule=deadline`,
		},
		"NotYet":       {reason: "It counts from when the guard sees that the pod should go, and not a second less.", objects: web(cordoned, leaver(deadline("4s", "Release")), webPod("b", elsewhere)), looks: []int{0, 3}},
		"DeadlineHold": {reason: "A team that does not say Release only wants to know.", objects: web(cordoned, leaver(deadline("4s", "Hold")), webPod("b", elsewhere)), looks: []int{0, 4}},
		"MaxHold": {
			reason: "The administrator's limit applies to those who set none.", objects: web(cordoned, leaver(), webPod("b", elsewhere)), looks: []int{0, 4}, limits: verdict.Limits{MaxHold: 4 * time.Second},
			want:   onEach("Warning ForcedRelease: Pod voice/a may go (drain): it was held for as long as --max-hold allows", "Pod voice/a", "Deployment voice/web", "Node node-1"),
			forced: 1, audit: `level=WARN msg="Pod is released by force" pod=voice/a uid=a intent=drain rule=deadline`,
		},
		"NodeEnds": {
			reason: "Karpenter has a time for the node, and calls win.", objects: web(ending, leaver(), webPod("b", elsewhere)), looks: []int{0, 5, 3600},
			want: onEach("Normal Held: Pod voice/a stays (drain): its witness rooms cannot tell whether it holds calls: there is no answer yet; Karpenter's terminationGracePeriod of its node ends 2026-01-01T12:02:00Z, and the node waits for its calls all the same",
				"Pod voice/a", "Deployment voice/web", "Node node-1"),
		},
		"NodeEndsSetAside": {
			reason: "It is said from the first step on.", objects: web(ending, webPod("a")), looks: once,
			want: onEach("Normal SetAside: Pod voice/a is set aside (drain): a replacement comes first; Karpenter's terminationGracePeriod of its node ends 2026-01-01T12:02:00Z, and the node waits for its calls all the same",
				"Pod voice/a", "Deployment voice/web", "Node node-1"),
		},
		"NodeEndsIsALimit": {
			reason: "Or that does, as the administrator wants: the pod's 40 s of grace and a minute before it.", limits: verdict.Limits{NodeEnds: true},
			objects: web(ending, leaver(grace(40)), webPod("b", elsewhere)), looks: []int{0, 19, 20},
			want: append([]string{"Warning ShortGrace on Deployment voice/web: terminationGracePeriodSeconds is 40, shorter than the 1h0m0s an agent may take to finish its calls; use 3600"}, append(
				onEach("Normal Held: Pod voice/a stays (drain): its witness rooms cannot tell whether it holds calls: there is no answer yet; Karpenter's terminationGracePeriod of its node ends 2026-01-01T12:02:00Z, and it is released in time for that, with its calls (--node-termination-limit)",
					"Pod voice/a", "Deployment voice/web", "Node node-1"),
				onEach("Warning ForcedRelease: Pod voice/a may go (drain): its node is about to end (--node-termination-limit)", "Pod voice/a", "Deployment voice/web", "Node node-1")...)...),
			forced: 1, audit: `level=WARN msg="Pod is released by force" pod=voice/a uid=a intent=drain rule=deadline`,
		},
		"BadDeadline": {
			reason: "Once for a workload, however many pods it has.", objects: []runtime.Object{fine, newDeployment("web", 2), newReplicaSet("1", 2), webPod("a", deadline("soon", "")), webPod("b", deadline("soon", ""))}, looks: []int{0, 1},
			want: []string{`Warning BadAnnotation on Deployment voice/web: annotation callguard.dev/drain-deadline is "soon"; use a duration above zero, such as "2h"; until then its default applies`},
		},
		"BadWitness": {
			reason: "Settings that cannot be parsed are reported, too.", objects: web(fine, webPod("a", annotation(call.WitnessesAnnotation, "rumour"))), looks: []int{0, 1},
			want: []string{`Warning BadAnnotation on Deployment voice/web: annotation callguard.dev/witnesses is "rumour": there is no witness "rumour"; use "rooms,worker", or others of "rooms", "worker" and "gate"; until then its default applies`},
		},
		"BadFloor": {
			reason: "The annotation is on the workload itself.", objects: []runtime.Object{fine, newDeployment("web", 1, annotation(call.MinAvailableAnnotation, "many")), newReplicaSet("1", 1), webPod("a")}, looks: []int{0, 1},
			want: []string{`Warning BadAnnotation on Deployment voice/web: annotation callguard.dev/min-available is "many"; use a number of pods or a percentage of the replicas, such as "2" or "50%"; until then all replicas must be available`},
		},
		"ShortGrace": {
			reason: "SIGTERM to an agent would end its calls after the grace period.", objects: web(fine, webPod("a", grace(30))), looks: []int{0, 1},
			want: []string{`Warning ShortGrace on Deployment voice/web: terminationGracePeriodSeconds is 30, shorter than the 1h0m0s an agent may take to finish its calls; use 3600`},
		},
		"LongGrace": {reason: "As long as the agent's own patience is enough.", objects: web(fine, webPod("a", grace(3600))), looks: once},
		"GateWithoutPort": {
			reason: "Whoever applied it was warned, and runs it all the same: it is said once.", objects: web(fine, webPod("a", withGate)), looks: []int{0, 1},
			want: []string{`Warning PodTemplateMistake on Deployment voice/web: its pods have a call-gate but no annotation callguard.dev/gate-port, so the calls that call-gate counts are not read; add callguard.dev/gate-port: "8089" to the pod template, or the port of --status-address`},
		},
		"GateWithPort":       {reason: "That is how it should be.", objects: web(fine, webPod("a", withGate, annotation(call.GatePortAnnotation, "8089"))), looks: once},
		"GateAmongWitnesses": {reason: "Its port is known then.", objects: web(fine, webPod("a", withGate, annotation(call.WitnessesAnnotation, "gate"))), looks: once},
		"TwoContainers": {
			reason: "Once for the workload, however many pods it has.", objects: []runtime.Object{fine, newDeployment("web", 2), newReplicaSet("1", 2), webPod("a", withHelper), webPod("b", withHelper)}, looks: []int{0, 1},
			want: []string{`Warning PodTemplateMistake on Deployment voice/web: its pods have more than one regular container, and a pod of which one has not started is evicted whatever calls it holds; make helpers native sidecars: initContainers with restartPolicy: Always`},
		},
		"SecretMissing": {
			reason: "The kubelet reports it, so no right to read Secrets is needed.", objects: web(fine, webPod("a", withoutSecret)), looks: []int{0, 1},
			want: []string{`Warning CannotStart on Deployment voice/web: pods such as a cannot start: container agent cannot be created: secret "voice-secrets" not found; they are not replaced, and a drain waits for them; create what is missing`},
		},
		"NotEnabled": {
			reason: "The label alone does nothing.", objects: web(cordoned, webPod("a"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: voice}}), looks: []int{0, 1},
			want: []string{`Warning NamespaceNotEnabled on Deployment voice/web: label callguard.dev/guarded has no effect here: namespace voice is not enabled; an administrator enables it with: kubectl label namespace voice callguard.dev/enabled=true`},
		},
		"Unlocked": {
			reason: "They look guarded, and are not.", objects: []runtime.Object{fine, newDeployment("web", 2), newReplicaSet("1", 2), webPod("a", label(call.ReleasedLabel, "unlock")), webPod("b", label(call.ReleasedLabel, "unlock"))}, looks: []int{0, 1},
			want: []string{`Warning Unlocked on Deployment voice/web: pods created before the unlock, such as a, are still unprotected; to protect them again, replace them: kubectl rollout restart`},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects, key := tc.objects, tc.workload
			if name != "NotEnabled" {
				objects = append(objects, enabledNamespace())
			}
			if key == (Key{}) {
				key = workloadKey(pods.Deployment, "web")
			}
			g, _ := newGuard(t, objects...)
			told, log := hear(g), &bytes.Buffer{}
			g.report.log = slog.New(slog.NewTextHandler(log, nil))
			g.planner.settings.Limits, g.cfg.AgentDrainTimeout = tc.limits, time.Hour
			for _, after := range tc.looks {
				g.now = func() time.Time { return noon().Add(time.Duration(after) * time.Second) }
				if _, err := g.reconcile(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				told()
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values(tc.want)), told()); diff != "" {
				t.Errorf("%s\nEvents: -want, +got:\n%s", tc.reason, diff)
			}
			if n := testutil.ToFloat64(g.report.metrics.forced); n != float64(tc.forced) {
				t.Errorf("%s\n%v forced releases are counted; want %d", tc.reason, n, tc.forced)
			}
			if !strings.Contains(log.String(), tc.audit) || tc.audit == "" && strings.Contains(log.String(), "by force") {
				t.Errorf("%s\nthe log says %s; want %q", tc.reason, log, tc.audit)
			}
		})
	}
}

// TestDeletedWhileLocked: a pod that is deleted despite the policies is reported and
// counted.
func TestDeletedWhileLocked(t *testing.T) {
	foreign := func(o metav1.Object) { o.SetNamespace("elsewhere") }
	cases := map[string]struct {
		reason   string
		was, is  []edit
		unlocked bool // or not guarded, or not held: not reported
	}{
		"Locked":     {reason: "Break-glass, or its node is gone."},
		"Draining":   {reason: "It was not released yet.", was: []edit{draining}, is: []edit{draining}},
		"Released":   {reason: "Deleting a released pod is no problem.", was: []edit{label(call.ReleasedLabel, "drain")}, is: []edit{label(call.ReleasedLabel, "drain")}, unlocked: true},
		"Ended":      {reason: "No container runs, so no call is cut.", was: []edit{ended}, is: []edit{ended}, unlocked: true},
		"Again":      {reason: "It was deleted before.", was: []edit{deleted, finalizer("example.com/wait")}, unlocked: true},
		"NotEnabled": {reason: "Nothing locks it there.", was: []edit{foreign}, is: []edit{foreign}, unlocked: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, _ := newGuard(t, enabledNamespace(), newDeployment("web", 1), newReplicaSet("1", 1))
			told := hear(g)
			leading(g)
			is := webPod("a", append(tc.is, deleted)...)
			g.podChanged(webPod("a", tc.was...), is)
			g.podChanged(is, is) // its grace period ends
			g.podChanged(is, nil)
			want, n := []string{"Warning DeletedWhileLocked on Pod voice/a: Pod voice/a was deleted while it was locked: by the break-glass group, or by Kubernetes because its node is gone"}, 1.0
			if tc.unlocked {
				want, n = nil, 0
			}
			if diff := cmp.Diff(want, told()); diff != "" {
				t.Errorf("%s\nEvents: -want, +got:\n%s", tc.reason, diff)
			}
			if got := testutil.ToFloat64(g.report.metrics.whileLocked); got != n {
				t.Errorf("%s\n%v deletions are counted; want %v", tc.reason, got, n)
			}
		})
	}
}

// TestCounters: the counters have the names that alerts use, from the start, because an alert on an increase
// does not see a series that begins at one.
func TestCounters(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	newMetrics(registry)
	const want = `
# HELP callguard_forced_releases_total Pods released although they may have held calls: a deadline had passed.
# TYPE callguard_forced_releases_total counter
callguard_forced_releases_total 0
# HELP callguard_deletions_while_locked_total Locked pods with a running container that were deleted despite the admission policies: by break-glass, or because their node was gone.
# TYPE callguard_deletions_while_locked_total counter
callguard_deletions_while_locked_total 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "callguard_forced_releases_total", "callguard_deletions_while_locked_total"); err != nil {
		t.Error(err)
	}
}

// TestRefusedStep: the API server refuses the guard's writes, as another webhook may: the pod counts as held,
// and its Event says who refused.
func TestRefusedStep(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), budgetOwner(), lockingBudget(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"))
	told := hear(g)
	refuse := true
	client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return refuse, nil, apierrors.NewInternalError(errors.New(`failed calling webhook "policy.example.com"`))
	})
	why := `cannot let pod voice/a go on (SetAside): Internal error occurred: failed calling webhook "policy.example.com"`
	for _, seconds := range []int{0, 5, 10} {
		g.now = func() time.Time { return noon().Add(time.Duration(seconds) * time.Second) }
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err == nil || err.Error() != why {
			t.Fatalf("error %v; want %s", err, why)
		}
	}
	want := onEach("Normal Held: Pod voice/a stays (drain): "+why, "Pod voice/a", "Deployment voice/web", "Node node-1")
	if diff := cmp.Diff(want, told()); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if list := g.report.holding(); len(list) != 1 || list[0].rule != RuleWrite {
		t.Errorf("held: %+v; want one by rule %s", list, RuleWrite)
	}
	refuse = false
	if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
		t.Fatal(err)
	}
	if list := g.report.holding(); len(list) != 0 {
		t.Errorf("the step succeeded, and held is %+v", list)
	}
}

// onPod edits a pod.
func onPod(change func(*corev1.Pod)) edit {
	return func(o metav1.Object) {
		if pod, is := o.(*corev1.Pod); is {
			change(pod)
		}
	}
}

// withGate adds a call-gate.
func withGate(o metav1.Object) {
	onPod(func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "gate", Command: []string{"/call-gate"}})
	})(o)
}

// withHelper adds a second regular container.
func withHelper(o metav1.Object) {
	onPod(func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "agent"}, {Name: "helper"}}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "helper", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	})(o)
}

// withoutSecret adds a container that waits for its Secret.
func withoutSecret(o metav1.Object) {
	onPod(func(p *corev1.Pod) {
		p.Status.Phase, p.Status.Conditions = corev1.PodPending, nil
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: configError, Message: `secret "voice-secrets" not found`}}}}
	})(o)
}
