// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/leader"
)

const allWell = `OK    api-server     v1.37.1 serves validating and mutating admission policies
OK    versions       plugin dev, policies dev, drain-guard callguard:dev, metrics-adapter not installed
OK    doors          all admission policies are as this version has them, and the API server refuses to delete a locked pod
OK    drain-guard    guard-1 leads
OK    namespaces     1 enabled, each with its PodDisruptionBudget callguard: voice
OK    opt-in         every guarded pod is in an enabled namespace: 2 pods
OK    workloads      no mistake was found in the pod templates of workloads that name callguard
OK    other-budgets  no other PodDisruptionBudget matches a guarded pod
OK    pods           every guarded pod has the grace its agent needs, and is locked from birth
OK    metrics-api    custom.metrics.k8s.io is available, by Service callguard-system/metrics-adapter
OK    autoscalers    no HorizontalPodAutoscaler may scale a guarded workload to zero
OK    calls          known of all running guarded pods: 3 calls in 2 pods
`

// unlabelled is a pod template that should be guarded, but is not.
func unlabelled() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{call.GatePortAnnotation: "8089"}}}
}

func TestDoctor(t *testing.T) {
	unlock := func(t *testing.T, s *stage) {
		t.Helper()
		holder := leader.UnlockHolder
		s.fake.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}, nil
		})
	}
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		change  func(*testing.T, *stage)
		want    []string // starts of lines that differ from when all is well
		failed  bool
	}{
		"Well": {reason: "Nothing to do."},
		"SecretMissing": {
			reason: "The kubelet's words, without a right to read Secrets.", failed: true,
			objects: []runtime.Object{newPod("c", pending, func(p *corev1.Pod) {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: `secret "voice-secrets" not found`}}}}
			})},
			want: []string{"OK opt-in every guarded pod is in an enabled namespace: 3 pods", `FAIL pods 1 of 3 guarded pods, such as voice/c, cannot start: container agent cannot be created: secret "voice-secrets" not found; create what is missing, such as the Secret that the pod template names`},
		},
		"MountMissing": {
			reason: "The kubelet says it in an Event alone.", failed: true,
			objects: []runtime.Object{newPod("c", creating), failedMount("c", `secret "voice-keys" not found`), failedMount("b", `secret "of-a-pod-that-runs" not found`)},
			want:    []string{"OK opt-in every guarded pod is in an enabled namespace: 3 pods", `FAIL pods 1 of 3 guarded pods, such as voice/c, cannot start: volume keys cannot be mounted: secret "voice-keys" not found; create what is missing, such as the Secret that the pod template names`},
		},
		"MountUnread": {
			reason: "Whoever may not read Events does not know.", objects: []runtime.Object{newPod("c", creating)},
			change: func(_ *testing.T, s *stage) { s.refuse("list", "events") },
			want:   []string{"OK opt-in every guarded pod is in an enabled namespace: 3 pods", "WARN pods whether pods that are being created lack what they mount is not checked: cannot list Events: "},
		},
		"NotFollowed": {
			reason: "A pod of another kind of owner is protected, but its owner's wishes are not followed. The guard follows those that its Deployment names.",
			objects: []runtime.Object{
				newPod("c", ownedBy("apps.kruise.io/v1beta1", "CloneSet")), newPod("d", ownedBy("batch/v1", "Job")),
			},
			change: func(t *testing.T, s *stage) {
				t.Helper()
				if _, err := s.client.AppsV1().Deployments(s.callguard).Update(t.Context(), newGuardDeployment("--owners=clonesets.apps.kruise.io"), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{
				"OK opt-in every guarded pod is in an enabled namespace: 4 pods",
				"WARN pods 1 of 4 guarded pods, such as voice/d, belong to a Job, which drain-guard does not follow: they leave in drains, but not in its scale-downs and rollouts; if it has a scale subresource, name it in drainGuard.owners of callguard's chart; let a pod go with annotation callguard.dev/leave",
				"WARN calls the calls of 2 of the 4 pods of namespace voice are unknown: active_calls is not known: 1 of 1 pods are unknown; pod c: its agent does not answer; a pod whose calls are unknown does not count for scaling, and is not released",
			},
		},
		"Door": {
			reason: "The policy's name, and the remedy.", failed: true, change: func(t *testing.T, s *stage) {
				t.Helper()
				if err := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(t.Context(), "callguard-birth", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"FAIL doors ValidatingAdmissionPolicy callguard-birth is missing; apply the chart again; nothing is released until then", "OK pods every guarded pod has the grace its agent needs"},
		},
		"NoGraceDoor": {
			reason: "The server could do it only after the install; nothing is at stake but the grace of pods that were let go.",
			change: func(t *testing.T, s *stage) {
				t.Helper()
				admission := s.client.AdmissionregistrationV1()
				if err := errors.Join(admission.MutatingAdmissionPolicies().Delete(t.Context(), "callguard-grace", metav1.DeleteOptions{}),
					admission.MutatingAdmissionPolicyBindings().Delete(t.Context(), "callguard-grace", metav1.DeleteOptions{})); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{
				"WARN doors MutatingAdmissionPolicy and binding callguard-grace are missing: an eviction may shorten the grace of a released pod; helm upgrade the chart",
				"OK doors all other admission policies are as this version has them, and the API server refuses to delete a locked pod",
			},
		},
		"HalfAGraceDoor": {
			reason: "That is no older install.", failed: true, change: func(t *testing.T, s *stage) {
				t.Helper()
				if err := s.client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Delete(t.Context(), "callguard-grace", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"FAIL doors MutatingAdmissionPolicyBinding callguard-grace is missing; apply the chart again", "OK pods every guarded pod has the grace its agent needs"},
		},
		"OpenDoor": {
			reason: "It exists, but does not act.", failed: true, change: func(_ *testing.T, s *stage) {
				s.fake.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
			},
			want: []string{"FAIL doors the API server would delete pod voice/a, which is locked", "OK pods every guarded pod has the grace its agent needs"},
		},
		"NoRightToTry": {
			reason: "What could not be tried is reported; the rest is fine.", change: func(_ *testing.T, s *stage) { s.refuse("delete", "pods") },
			want: []string{"OK doors all admission policies are as this version has them; cannot try policy callguard-delete: pods is forbidden: no right to delete"},
		},
		"Unlocked": {reason: "No guard leads after an unlock.", failed: true, change: unlock, want: []string{"FAIL drain-guard no drain-guard leads: callguard was unlocked"}},
		"NoBudget": {
			reason: "Evictions go through.", failed: true, objects: []runtime.Object{newNamespace("bare", true)},
			want: []string{"FAIL namespaces PodDisruptionBudget bare/callguard is missing"},
		},
		"OpenBudget": {
			reason: "As an unlock leaves it.", failed: true, change: func(t *testing.T, s *stage) {
				t.Helper()
				pdb := newBudget(voice)
				pdb.Spec.MinAvailable.IntVal = 1
				if _, err := s.client.PolicyV1().PodDisruptionBudgets(voice).Update(t.Context(), pdb, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"FAIL namespaces PodDisruptionBudget voice/callguard is not as callguard makes it, so evictions are not refused"},
		},
		"OptIn": {
			reason: "A label without effect.", failed: true, objects: []runtime.Object{newNamespace("off", false), newPod("x", in("off"))},
			want: []string{"FAIL opt-in namespace off is not enabled, and nothing holds the calls of 1 guarded pod there, such as x; an administrator enables it: kubectl label namespace off callguard.dev/enabled=true"},
		},
		"OtherValue": {
			reason: "kubectl changes no label without --overwrite, and the value that does nothing is named.", failed: true,
			objects: []runtime.Object{labelledNamespace("off", "True"), newPod("x", in("off")), labelledNamespace("idle", "yes"), labelledNamespace("meant", "false")},
			want: []string{
				`WARN namespaces namespace idle is not enabled (its label callguard.dev/enabled is "yes", not "true"), and nothing holds calls there; kubectl label namespace idle callguard.dev/enabled=true --overwrite`,
				`WARN namespaces namespace off is not enabled (its label callguard.dev/enabled is "True", not "true")`,
				`FAIL opt-in namespace off is not enabled (its label callguard.dev/enabled is "True", not "true"), and nothing holds the calls of 1 guarded pod there, such as x; an administrator enables it: kubectl label namespace off callguard.dev/enabled=true --overwrite`,
			},
		},
		"NoGuard": {
			reason: "The policies hold calls without it.", failed: true, change: func(_ *testing.T, s *stage) {
				s.fake.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, leader.LeaseName)
				})
			},
			want: []string{"FAIL drain-guard no drain-guard leads: there is no lease callguard-system/drain-guard; see Deployment callguard-system/drain-guard, or set --callguard-namespace; no pod is released; calls are held all the same"},
		},
		"NoGuardNorDoor": {
			reason: "Nothing is said to be held where the policies do not stand.", failed: true, change: func(t *testing.T, s *stage) {
				t.Helper()
				if err := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(t.Context(), "callguard-delete", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				s.owners = map[string]string{}
				unlock(t, s)
			},
			want: []string{
				"OK versions plugin dev, policies not installed,", "FAIL doors ValidatingAdmissionPolicy callguard-delete is missing", "FAIL drain-guard no drain-guard leads: callguard was unlocked",
				"FAIL metrics-api there is no APIService v1beta1.custom.metrics.k8s.io and v1beta2.custom.metrics.k8s.io: autoscalers and this plugin read no calls; install",
				"OK pods every guarded pod has the grace its agent needs",
			},
		},
		"Foreign": {
			reason: "Drains give up.", failed: true, objects: []runtime.Object{otherBudget("second")},
			want: []string{"FAIL other-budgets PodDisruptionBudget voice/second matches guarded pods, such as a, beside callguard's: drains give up on them (500); delete it"},
		},
		"PastKarpenter": {
			reason: "Nothing protects a pod that tolerates Karpenter's taint.", failed: true,
			objects: []runtime.Object{newPod("c", func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			})},
			change: func(_ *testing.T, s *stage) { s.calls["c"] = 0 },
			want: []string{
				"OK opt-in every guarded pod is in an enabled namespace: 3 pods", "OK calls known of all running guarded pods: 3 calls in 3 pods",
				"FAIL pods 1 of 3 guarded pods, such as voice/c, tolerate the taint karpenter.sh/disrupted:NoSchedule: Karpenter neither evicts them nor waits for them",
			},
		},
		"Pods": {
			reason: "Each weakness by itself.", failed: true, objects: []runtime.Object{newPod("c", grace(30)), newPod("d", released(call.Unlock)), newPod("e", pending)},
			change: func(_ *testing.T, s *stage) { s.calls["c"], s.calls["d"], s.calls["e"] = 0, 0, 0 },
			want: []string{
				"OK opt-in every guarded pod is in an enabled namespace: 5 pods", "OK calls known of all running guarded pods: 3 calls in 4 pods",
				"WARN pods 1 of 5 guarded pods, such as voice/c, have a shorter grace than the 1h0m0s an agent may take to finish its calls; terminationGracePeriodSeconds: 3600",
				"WARN pods 1 of 5 guarded pods, such as voice/d, were unlocked, and nothing holds their calls",
				"FAIL pods 1 of 5 guarded pods, such as voice/e, are Pending while a container runs",
			},
		},
		"Unable": {
			reason: "LiveKit refuses the key, says the gate, and whose that is.", objects: []runtime.Object{newPod("c", gated(false, time.Hour)), newPod("d", gated(true, time.Hour)), newPod("e", gated(false, time.Minute))},
			change: func(_ *testing.T, s *stage) {
				s.calls["c"], s.calls["d"], s.calls["e"] = 0, 0, 0
				s.gate = `{"able":false,"unable":"refused"}`
			},
			want: []string{
				"OK opt-in every guarded pod is in an enabled namespace: 5 pods", "OK calls known of all running guarded pods: 3 calls in 5 pods",
				"WARN pods 1 of 5 guarded pods, such as voice/c, can take no call: LiveKit refuses the key of Secret voice/livekit (pod voice/c); kubectl get --raw /api/v1/namespaces/voice/pods/c:8089/proxy/calls says more",
			},
		},
		"ScaleToZero": {
			reason: "Only a guarded workload that may shrink to none.", objects: []runtime.Object{
				scaledWorkload("gone", true), autoscaler("gone", 0), scaledWorkload("one", true), autoscaler("one", 1), scaledWorkload("web-site", false), autoscaler("web-site", 0), autoscaler("nobody", 0),
			},
			want: []string{"WARN autoscalers HorizontalPodAutoscaler voice/gone may scale Deployment gone to zero: then no agent answers, and no call brings one back; minReplicas: 1, or more"},
		},
		"ReplicaSets": {
			reason: "One of somebody's own is a workload; one that a Deployment makes is not.", objects: []runtime.Object{
				&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "bare"}, Spec: appsv1.ReplicaSetSpec{Template: unlabelled()}},
				&appsv1.ReplicaSet{
					ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: "made", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "a", UID: "a", Controller: new(true)}}},
					Spec:       appsv1.ReplicaSetSpec{Template: unlabelled()},
				},
			},
			want: []string{"WARN workloads ReplicaSet voice/bare: its pod template has no label callguard.dev/guarded, so nothing holds or counts its calls; kubectl apply of it warns, with the line to write"},
		},
		"Workloads": {
			reason: "Each mistake of a pod template is named; objects that a controller creates, or that do not mention callguard, are not checked.", objects: []runtime.Object{
				scaledWorkload("right", true), scaledWorkload("other", false),
				mistaken("yes", func(d *appsv1.Deployment) { d.Spec.Template.Labels[call.GuardedLabel] = "yes" }),
				mistaken("misspelt", func(d *appsv1.Deployment) {
					d.Spec.Template.Annotations = map[string]string{"callguard.dev/gateport": "8089"}
					d.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "gate", Command: []string{"/call-gate"}}}
				}),
				mistaken("unlabelled", func(d *appsv1.Deployment) {
					d.Spec.Template.Labels, d.Annotations = nil, map[string]string{call.DeadlineAnnotation: "2h", call.MinAvailableAnnotation: "1"}
				}),
				mistaken("two", func(d *appsv1.Deployment) {
					d.Spec.Template.Spec.Containers = make([]corev1.Container, 2)
					d.Spec.Template.Spec.PriorityClassName = ""
				}),
				mistaken("made", func(d *appsv1.Deployment) {
					yes := true
					d.Spec.Template.Labels[call.GuardedLabel] = "yes"
					d.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.org/v1", Kind: "Agent", Name: "a", UID: "a", Controller: &yes}}
				}),
			},
			want: []string{
				`WARN workloads Deployment voice/yes: label callguard.dev/guarded of its pod template is "yes", not "true", so nothing holds or counts its calls; kubectl apply of it warns, with the line to write`,
				"WARN workloads Deployment voice/misspelt: callguard knows no annotation callguard.dev/gateport of a pod template",
				"WARN workloads Deployment voice/misspelt: it has a call-gate and no annotation callguard.dev/gate-port",
				"WARN workloads Deployment voice/unlabelled: its pod template has no label callguard.dev/guarded, so nothing holds or counts its calls",
				"WARN workloads Deployment voice/unlabelled: annotation callguard.dev/drain-deadline has no effect on the workload itself",
				"WARN workloads Deployment voice/two: it has more than one regular container",
				"WARN workloads Deployment voice/two: it has no priority",
			},
		},
		"NoRightToListWorkloads": {
			reason: "It is said, and all else is checked.", change: func(_ *testing.T, s *stage) { s.refuse("list", "statefulsets") },
			want: []string{"WARN workloads not checked: cannot list the StatefulSets"},
		},
		"ScaleToZeroOfUnknown": {
			reason: "A user who may not read the target learns that it may be guarded.", objects: []runtime.Object{autoscaler("gone", 0)},
			change: func(_ *testing.T, s *stage) { s.refuse("get", "deployments") },
			want: []string{
				"OK versions plugin dev, policies dev, drain-guard not known: ", "OK doors all admission policies are as this version has them (drain-guard's settings",
				"WARN autoscalers HorizontalPodAutoscaler voice/gone may scale Deployment gone to zero (whether its pods are guarded is not known: ",
			},
		},
		"NoRightToListAutoscalers": {
			reason: "It is said, and all else is checked.", change: func(_ *testing.T, s *stage) { s.refuse("list", "horizontalpodautoscalers") },
			want: []string{"WARN autoscalers not checked: cannot list the HorizontalPodAutoscalers"},
		},
		"UnableUnasked": {
			reason: "A user who may not ask the gate still learns that it has no worker.", objects: []runtime.Object{newPod("c", gated(false, time.Hour))},
			change: func(_ *testing.T, s *stage) { s.calls["c"] = 0 },
			want: []string{
				"OK opt-in every guarded pod is in an enabled namespace: 3 pods", "OK calls known of all running guarded pods: 3 calls in 3 pods",
				"WARN pods 1 of 3 guarded pods, such as voice/c, can take no call: no worker is registered with LiveKit through their call-gates, which have their key from Secret voice/livekit; kubectl get --raw /api/v1/namespaces/voice/pods/c:8089/proxy/calls says why",
			},
		},
		"NoAPI": {
			reason: "No adapter serves the metrics.", failed: true, change: func(_ *testing.T, s *stage) { s.apiServices = errors.New("no answer") },
			want: []string{"FAIL metrics-api cannot read APIService v1beta1.custom.metrics.k8s.io: no answer"},
		},
		"OtherAdapter": {
			reason: "A documented way to run it: calls are held, and read elsewhere.", change: func(_ *testing.T, s *stage) {
				s.owners = map[string]string{"v1beta1": "prometheus-adapter"}
				s.metrics = errors.New("no such metric")
			},
			want: []string{
				"WARN metrics-api v1beta1.custom.metrics.k8s.io is served by callguard-system/prometheus-adapter, not by callguard's Service callguard-system/metrics-adapter: autoscalers and this plugin read no calls",
				"WARN calls the calls of the 2 pods of namespace voice are unknown: the metrics API does not answer: no such metric; the guard asks",
			},
		},
		"HalfTaken": {
			reason: "Whoever reads that version reads no calls.", change: func(_ *testing.T, s *stage) {
				s.owners = map[string]string{"v1beta1": "prometheus-adapter", "v1beta2": "metrics-adapter"}
			},
			want: []string{"WARN metrics-api v1beta1.custom.metrics.k8s.io is served by callguard-system/prometheus-adapter"},
		},
		"Beside": {
			reason: "The other adapter is named, and everything is fine.", change: func(_ *testing.T, s *stage) { s.before = `{"service":"monitoring/prometheus-adapter"}` },
			want: []string{"OK metrics-api custom.metrics.k8s.io is available, by Service callguard-system/metrics-adapter, which forwards requests for other metrics to monitoring/prometheus-adapter"},
		},
		"PutBack": {
			reason: "It was taken, and another chart's upgrade has put it back.", failed: true, change: func(_ *testing.T, s *stage) {
				s.before = `{"service":"callguard-system/prometheus-adapter"}`
				s.owners = map[string]string{"v1beta1": "prometheus-adapter", "v1beta2": "metrics-adapter"}
			},
			want: []string{"FAIL metrics-api callguard had taken over v1beta1.custom.metrics.k8s.io from another adapter, and it names callguard-system/prometheus-adapter again: autoscalers and this plugin read no calls there; calls are held all the same; " +
				"take it out of what applies it, such as the other adapter's chart; then: kubectl annotate apiservice v1beta1.custom.metrics.k8s.io callguard.dev/before- && kubectl rollout restart deployment metrics-adapter -n callguard-system"},
		},
		"Unreadable": {
			reason: "Unreadable objects are named.", failed: true, change: func(_ *testing.T, s *stage) { s.before = "x" },
			want: []string{"FAIL metrics-api annotation callguard.dev/before of APIService v1beta1.custom.metrics.k8s.io cannot be read"},
		},
		"NoAdapter": {
			reason: "Both ways out.", failed: true, change: func(_ *testing.T, s *stage) { s.owners = map[string]string{} },
			want: []string{"FAIL metrics-api there is no APIService v1beta1.custom.metrics.k8s.io and v1beta2.custom.metrics.k8s.io: autoscalers and this plugin read no calls; calls are held all the same; install the metrics-adapter (metricsAdapter.mode of charts/callguard); or another adapter"},
		},
		"Metrics": {
			reason: "Unknown is not zero.", failed: true, change: func(_ *testing.T, s *stage) { s.metrics = errors.New("LiveKit is silent") },
			want: []string{"FAIL calls the calls of the 2 pods of namespace voice are unknown: the metrics API does not answer: LiveKit is silent"},
		},
		"OnePod": {
			reason: "One of them is.", change: func(_ *testing.T, s *stage) { delete(s.calls, "b") },
			want: []string{"WARN calls the calls of 1 of the 2 pods of namespace voice are unknown: active_calls is not known: 1 of 1 pods are unknown; pod b: its agent does not answer"},
		},
		"NoRights": {
			reason: "What may not be read is not checked, and is not OK.", change: func(_ *testing.T, s *stage) {
				s.refuse("list", "pods")
				s.refuse("get", "validatingadmissionpolicies")
			},
			want: []string{
				"FAIL doors", "OK versions plugin dev, policies not known: ", "WARN opt-in not checked: cannot list guarded pods: pods is forbidden: no right to list", "WARN other-budgets not checked", "WARN pods not checked", "WARN calls not checked",
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, append([]runtime.Object{newNamespace(voice, true), newBudget(voice), newGuardDeployment(), newPod("a"), newPod("b", draining)}, tc.objects...)...)
			s.calls = map[string]int64{"a": 1, "b": 2}
			if tc.change != nil {
				tc.change(t, s)
			}
			if name == "NoRights" { // of all doors, or it is one that is missing
				tc.want[0] = "WARN doors not checked"
				for _, door := range []string{"validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"} {
					s.refuse("get", door)
				}
			}
			var out bytes.Buffer
			err := report(&out, s.examine(t.Context(), ""), "")
			want := error(nil)
			switch {
			case tc.failed:
				want = errFailed
			case strings.Contains(out.String(), "WARN "):
				want = errWarned
			}
			if !errors.Is(err, want) {
				t.Errorf("%s\nerror %v; want %v", tc.reason, err, want)
			}
			var got []string
			for l := range strings.SplitSeq(strings.TrimSpace(out.String()), "\n") {
				if strings.Contains(squeeze(allWell), squeeze(l)+"\n") {
					continue
				}
				got = append(got, squeeze(l))
			}
			if len(got) != len(tc.want) {
				t.Fatalf("%s\nnot well are %q; want %q", tc.reason, got, tc.want)
			}
			for _, want := range tc.want {
				found := false
				for _, l := range got {
					found = found || strings.HasPrefix(l, want)
				}
				if !found {
					t.Errorf("%s\nthere is no line %q in:\n%s", tc.reason, want, strings.Join(got, "\n"))
				}
			}
			if name == "Well" {
				if diff := cmp.Diff(allWell, out.String()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
				}
			}
		})
	}
}

// found is an examination with this finding.
func found(findings ...finding) examination {
	return func(tell func(...finding)) { tell(findings...) }
}

// TestReport: the worst finding decides how doctor exits, in JSON as well.
func TestReport(t *testing.T) {
	well, bad, worse := finding{ok, "a", "is well", ""}, finding{warn, "b", "is\nodd", "look"}, finding{fail, "c", "is not", "mend it"}
	cases := map[string]struct {
		findings []finding
		err      error
		want     string
	}{
		"Well":   {findings: []finding{well}, want: "OK a is well\n"},
		"Warned": {findings: []finding{bad, well}, err: errWarned, want: "WARN b is; odd; look\nOK a is well\n"},
		"Failed": {findings: []finding{worse, bad}, err: errFailed, want: "FAIL c is not; mend it\nWARN b is; odd; look\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var out, encoded bytes.Buffer
			if err := report(&out, found(tc.findings...), ""); !errors.Is(err, tc.err) {
				t.Errorf("it ends with %v; want %v", err, tc.err)
			}
			if squeeze(out.String()) != tc.want {
				t.Errorf("it says %q; want %q", out.String(), tc.want)
			}
			if err := report(&encoded, found(tc.findings...), outputJSON); !errors.Is(err, tc.err) {
				t.Errorf("with -o json it ends with %v; want %v", err, tc.err)
			}
			var list FindingList
			if err := json.Unmarshal(encoded.Bytes(), &list); err != nil || len(list.Items) != len(tc.findings) || list.Items[0].Level != string(tc.findings[0].level) {
				t.Errorf("%v:\n%s", err, encoded.String())
			}
		})
	}
}

// TestReportWhileItLooks reads doctor's findings from a pipe, while the next checks have no answer yet.
func TestReportWhileItLooks(t *testing.T) {
	s := newStage(t, newNamespace(voice, true), newBudget(voice), newGuardDeployment(), newPod("a"))
	s.calls = map[string]int64{"a": 1}
	answer := make(chan struct{})
	s.fake.PrependReactor("list", "horizontalpodautoscalers", func(clienttesting.Action) (bool, runtime.Object, error) {
		<-answer
		return false, nil, nil
	})
	from, to := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- report(&plain{to: to}, s.examine(t.Context(), ""), "")
		_ = to.Close()
	}()
	lines := bufio.NewScanner(from)
	var checks []string
	next := func() bool {
		more := lines.Scan()
		if more {
			checks = append(checks, strings.Fields(lines.Text())[1])
		}
		return more
	}
	for next() && checks[len(checks)-1] != "metrics-api" {
	}
	select {
	case err := <-ended:
		t.Fatalf("it ends with %v before it had an answer", err)
	default:
	}
	close(answer)
	for next() {
	}
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
	want := strings.Fields("api-server versions doors drain-guard namespaces opt-in workloads other-budgets pods metrics-api autoscalers calls")
	if diff := cmp.Diff(want, checks); diff != "" {
		t.Errorf("the order is another (-want +got):\n%s", diff)
	}
}

// TestDoctorWithoutCallguard: one line says that it is not installed, and how to install it; and nothing is said about
// protected calls.
func TestDoctorWithoutCallguard(t *testing.T) {
	const line = "FAIL  callguard  it is not installed: there is no Deployment callguard-system/drain-guard, and no admission policy of callguard's"
	const cure = "; to install it: helm install callguard charts/callguard --namespace callguard-system --create-namespace\n"
	for name, tc := range map[string]struct {
		pods []runtime.Object
		more string
	}{
		"NoPods":      {},
		"GuardedPods": {pods: []runtime.Object{newPod("a"), newPod("b")}, more: "; nothing holds the calls of 2 guarded pods, such as voice/a"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBareStage(t, append(tc.pods, newNamespace(voice, true), newNode(false))...)
			var out bytes.Buffer
			if err := report(&out, s.examine(t.Context(), ""), ""); !errors.Is(err, errFailed) {
				t.Errorf("it ends with %v; want %v", err, errFailed)
			}
			if want := squeeze(line + tc.more + cure); squeeze(out.String()) != want {
				t.Errorf("it says\n%s\nwant\n%s", squeeze(out.String()), want)
			}
			common, _, _ := newCommon()
			err := (&drainOptions{common: common, pace: pace}).run(t.Context(), s.cluster, "node-1")
			if len(tc.pods) > 0 && (err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "callguard cannot hold a call here: it is not installed")) {
				t.Errorf("a drain ends with %v; want one reason", err)
			}
		})
	}
}

// TestDoctorAsAViewer: what the user may not read is named as a right, with the role that has it.
func TestDoctorAsAViewer(t *testing.T) {
	s := newStage(t, newNamespace(voice, true), newBudget(voice), newGuardDeployment(), newPod("a"))
	for _, right := range []struct{ resource, group string }{
		{"validatingadmissionpolicies", "admissionregistration.k8s.io"}, {"validatingadmissionpolicybindings", "admissionregistration.k8s.io"},
		{"mutatingadmissionpolicies", "admissionregistration.k8s.io"}, {"mutatingadmissionpolicybindings", "admissionregistration.k8s.io"},
		{"leases", "coordination.k8s.io"},
	} {
		s.fake.PrependReactor("get", right.resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, mayNot("get", right.resource, right.group, "")
		})
	}
	s.metrics = mayNot("get", "pods/active_calls", "custom.metrics.k8s.io", voice)
	s.apiServices = mayNot("get", "apiservices", "apiregistration.k8s.io", "")
	var out bytes.Buffer
	if err := report(&out, s.examine(t.Context(), voice), ""); !errors.Is(err, errWarned) {
		t.Errorf("it ends with %v, and nothing is known to be wrong", err)
	}
	const role = "; ClusterRole callguard-viewer has it"
	for _, want := range []string{
		"WARN doors not checked: you need the right to get validatingadmissionpolicies.admissionregistration.k8s.io, get validatingadmissionpolicybindings.admissionregistration.k8s.io, get mutatingadmissionpolicies.admissionregistration.k8s.io, get mutatingadmissionpolicybindings.admissionregistration.k8s.io" + role,
		"WARN drain-guard not checked: you need the right to get leases.coordination.k8s.io" + role,
		"WARN metrics-api not checked: you need the right to get apiservices.apiregistration.k8s.io" + role,
		"WARN calls not checked: you need the right to get pods/active_calls.custom.metrics.k8s.io in namespace voice" + role,
		"OK pods every guarded pod has the grace its agent needs\n",
	} {
		if !strings.Contains(squeeze(out.String()), want) {
			t.Errorf("there is no line %q in:\n%s", want, out.String())
		}
	}
}

// mayNot is the refusal of a server built like kube-apiserver.
func mayNot(verb, resource, group, namespace string) error {
	where := " at the cluster scope"
	if namespace != "" {
		where = fmt.Sprintf(" in the namespace %q", namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: group, Resource: resource}, "x", fmt.Errorf("User %q cannot %s resource %q in API group %q%s", "bob", verb, resource, group, where))
}

// mistaken is a guarded workload with a mistake.
func mistaken(name string, change func(*appsv1.Deployment)) *appsv1.Deployment {
	d := scaledWorkload(name, true)
	change(d)
	return d
}

// squeeze removes the columns' padding.
func squeeze(text string) string {
	var lines []string
	for l := range strings.SplitSeq(text, "\n") {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n")
}

// TestBounded: a check with many findings names some of them.
func TestBounded(t *testing.T) {
	list := make([]finding, 25)
	got := bounded(list, finding{})
	if len(got) != mostOfAKind || got[mostOfAKind-1].what != "and 16 more like this" {
		t.Errorf("%d findings, the last %q", len(got), got[len(got)-1].what)
	}
}
