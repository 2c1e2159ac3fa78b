// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// TestSteps checks the exact body of each step: if the pod is not the one that was seen, or
// has changed since, it must be refused.
func TestSteps(t *testing.T) {
	web := controllerRef(appsGroup, pods.Deployment, "web")
	blocking := true
	web.BlockOwnerDeletion = &blocking
	beside := func(o metav1.Object) {
		o.SetOwnerReferences(append(o.GetOwnerReferences(), metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "friend", UID: "friend"}))
	}
	mark := call.Mark{Intent: call.NodeDrain, At: noon()}
	cases := map[string]struct {
		reason string
		costs  bool
		pod    *corev1.Pod
		step   func(context.Context, *steps, *corev1.Pod) (*corev1.Pod, error)
		want   string
	}{
		"SetAside": {
			reason: "The hash is kept, the Deployment takes the pod, and does not have to wait for it when it is deleted.",
			pod:    webPod("a"),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.setAside(ctx, pod, web, mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"labels": {"pod-template-hash": "1-aside"},
				"annotations": {"callguard.dev/hash": "1", "callguard.dev/aside": "drain 2026-01-01T12:00:00Z",
					"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "on-completion",
					"callguard.dev/autoscalers-before": "cluster-autoscaler.kubernetes.io/safe-to-evict=,karpenter.sh/do-not-disrupt="},
				"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "web", "controller": true}]}}`,
		},
		"SetAsideOfARollout": {
			reason: "The ReplicaSets of an Argo Rollout select by their own label.",
			pod:    newPod("a", controlledBy(pods.ReplicaSet, "web-1"), label("rollouts-pod-template-hash", "1")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.setAside(ctx, pod, controllerRef(argo, "Rollout", "web"), mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"labels": {"rollouts-pod-template-hash": "1-aside"},
				"annotations": {"callguard.dev/hash": "1", "callguard.dev/aside": "drain 2026-01-01T12:00:00Z",
					"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "on-completion",
					"callguard.dev/autoscalers-before": "cluster-autoscaler.kubernetes.io/safe-to-evict=,karpenter.sh/do-not-disrupt="},
				"ownerReferences": [{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "web", "uid": "web", "controller": true}]}}`,
		},
		"HandBackToARollout": {
			reason: "And back by it.",
			pod:    newPod("a", controlledByOther(argo, "Rollout"), label("rollouts-pod-template-hash", "1-aside"), annotation(call.HashAnnotation, "1"), annotation(call.AsideAnnotation, "drain 2026-01-01T11:58:00Z")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.handBack(ctx, pod)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"labels": {"callguard.dev/released": "unlock", "rollouts-pod-template-hash": "1"},
				"annotations": {"callguard.dev/hash": null, "callguard.dev/aside": null}, "ownerReferences": []}}`,
		},
		"SetAsideKeepsFriends": {
			reason: "Owners that control nothing stay; the deletion cost rides along.",
			costs:  true, pod: webPod("a", beside),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.setAside(ctx, pod, web, mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"labels": {"pod-template-hash": "1-aside"},
				"annotations": {"callguard.dev/hash": "1", "callguard.dev/aside": "drain 2026-01-01T12:00:00Z",
					"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "on-completion",
					"callguard.dev/autoscalers-before": "cluster-autoscaler.kubernetes.io/safe-to-evict=,karpenter.sh/do-not-disrupt=",
					"controller.kubernetes.io/pod-deletion-cost": "-1000"},
				"ownerReferences": [
					{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "web", "controller": true},
					{"apiVersion": "v1", "kind": "ConfigMap", "name": "friend", "uid": "friend"}]}}`,
		},
		"SetAsideToldBefore": {
			reason: "The pod's previous annotations for autoscalers are recorded. One that is already right belongs to its owner.",
			pod:    webPod("a", annotation(safeToEvict, "true"), annotation(doNotDisrupt, "true")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.setAside(ctx, pod, web, mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"labels": {"pod-template-hash": "1-aside"},
				"annotations": {"callguard.dev/hash": "1", "callguard.dev/aside": "drain 2026-01-01T12:00:00Z",
					"cluster-autoscaler.kubernetes.io/safe-to-evict": "on-completion",
					"callguard.dev/autoscalers-before": "cluster-autoscaler.kubernetes.io/safe-to-evict=true"},
				"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "web", "controller": true}]}}`,
		},
		"SetAsideToldNonsense": {
			reason: "A value that no autoscaler knows is as good as none, and does not keep the pod from going.",
			pod:    webPod("a", annotation(safeToEvict, strings.Repeat("x", 200_000)), annotation(doNotDisrupt, "a,b=c")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.setAside(ctx, pod, web, mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"labels": {"pod-template-hash": "1-aside"},
				"annotations": {"callguard.dev/hash": "1", "callguard.dev/aside": "drain 2026-01-01T12:00:00Z",
					"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "on-completion",
					"callguard.dev/autoscalers-before": "cluster-autoscaler.kubernetes.io/safe-to-evict=,karpenter.sh/do-not-disrupt="},
				"ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "web", "controller": true}]}}`,
		},
		"Drain": {
			reason: "One annotation, which the kubelet carries into the pod.",
			pod:    webPod("a"),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.drain(ctx, pod, mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "annotations": {"callguard.dev/draining": "drain 2026-01-01T12:00:00Z"}}}`,
		},
		"DrainCosts": {
			reason: "Whoever chooses by cost takes it first.",
			costs:  true, pod: webPod("a"),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.drain(ctx, pod, mark)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7",
				"annotations": {"callguard.dev/draining": "drain 2026-01-01T12:00:00Z", "controller.kubernetes.io/pod-deletion-cost": "-1000"}}}`,
		},
		"Release": {
			reason: "One label, which every policy reads.",
			pod:    webPod("a"),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.release(ctx, pod, call.Rollout)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "rollout"}}}`,
		},
		"ReleaseCosts": {
			reason: "A released pod is deleted before one that only leaves.",
			costs:  true, pod: webPod("a"),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.release(ctx, pod, call.Rollout)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "rollout"},
				"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-2000"}}}`,
		},
		"ReleaseAside": {
			reason: "Whoever drains its node may take it now: Karpenter would wait for a pod that says it may not be disrupted.",
			pod:    asidePod("a", toldLeaving("cluster-autoscaler.kubernetes.io/safe-to-evict=true,karpenter.sh/do-not-disrupt=")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.release(ctx, pod, call.NodeDrain)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "drain"},
				"annotations": {"callguard.dev/autoscalers-before": null, "karpenter.sh/do-not-disrupt": null,
					"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}}}`,
		},
		"ReleaseAsideOfOwners": {
			reason: "The owner's annotation for Karpenter stays the owner's, and a later change stays as well.",
			pod: asidePod("a", toldLeaving("cluster-autoscaler.kubernetes.io/safe-to-evict="),
				annotation(safeToEvict, "false")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.release(ctx, pod, call.NodeDrain)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "drain"},
				"annotations": {"callguard.dev/autoscalers-before": null}}}`,
		},
		"ReleaseAsideOfOld": {
			reason: "A pod that an older guard set aside has no such annotation.",
			pod:    asidePod("a", annotation(doNotDisrupt, "true")),
			step: func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) {
				return s.release(ctx, pod, call.NodeDrain)
			},
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "drain"}}}`,
		},
		"HandBackTold": {
			reason: "It is a pod like any other again, also for autoscalers.",
			pod:    asidePod("a", toldLeaving("cluster-autoscaler.kubernetes.io/safe-to-evict=true,karpenter.sh/do-not-disrupt=")),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock", "pod-template-hash": "1"},
				"annotations": {"callguard.dev/hash": null, "callguard.dev/aside": null, "callguard.dev/autoscalers-before": null,
					"karpenter.sh/do-not-disrupt": null, "cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}, "ownerReferences": []}}`,
		},
		"HandBack": {
			reason: "A pod that is its ReplicaSet's only needs to be let go.",
			pod:    webPod("a"),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want:   `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock"}}}`,
		},
		"HandBackAside": {
			reason: "With its old hash and no controller its ReplicaSet adopts it.",
			pod:    asidePod("a", beside),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock", "pod-template-hash": "1"},
				"annotations": {"callguard.dev/hash": null, "callguard.dev/aside": null},
				"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "friend", "uid": "friend"}]}}`,
		},
		"HandBackAsideAlone": {
			reason: "No owner is an empty list, not a missing one.",
			pod:    asidePod("a"),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock", "pod-template-hash": "1"},
				"annotations": {"callguard.dev/hash": null, "callguard.dev/aside": null}, "ownerReferences": []}}`,
		},
		"HandBackReleased": {
			reason: "The reason of a release never changes. It was idle, so it is still deleted first.",
			pod:    asidePod("a", draining, label(call.ReleasedLabel, "drain"), annotation(costAnnotation, costReleased)),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"pod-template-hash": "1"},
				"annotations": {"callguard.dev/hash": null, "callguard.dev/aside": null}, "ownerReferences": []}}`,
		},
		"HandBackBusy": {
			reason: "Its ReplicaSet has no reason to take it before a pod that is idle.",
			pod:    asidePod("a", draining, annotation(costAnnotation, costLeaving)),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock", "pod-template-hash": "1"},
				"annotations": {"callguard.dev/hash": null, "callguard.dev/aside": null, "controller.kubernetes.io/pod-deletion-cost": null}, "ownerReferences": []}}`,
		},
		"HandBackBusyInPlace": {
			reason: "The same for one that could not be set aside.",
			pod:    webPod("a", draining, annotation(costAnnotation, costLeaving)),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want: `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock"},
				"annotations": {"controller.kubernetes.io/pod-deletion-cost": null}}}`,
		},
		"HandBackOfOthersCost": {
			reason: "A cost that says something else is not the guard's to take off.",
			pod:    webPod("a", annotation(costAnnotation, "300")),
			step:   func(ctx context.Context, s *steps, pod *corev1.Pod) (*corev1.Pod, error) { return s.handBack(ctx, pod) },
			want:   `{"metadata": {"uid": "a", "resourceVersion": "7", "labels": {"callguard.dev/released": "unlock"}}}`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			var got string
			var kind types.PatchType
			client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				patch := action.(clienttesting.PatchAction)
				got, kind = string(patch.GetPatch()), patch.GetPatchType()
				return true, tc.pod, nil
			})
			if _, err := tc.step(t.Context(), &steps{client: client, costs: tc.costs}, tc.pod); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(inJSON(t, tc.want), inJSON(t, got)); diff != "" || kind != types.MergePatchType {
				t.Errorf("%s\n%s, -want, +got:\n%s", tc.reason, kind, diff)
			}
		})
	}
}

// toldLeaving returns a pod's annotation for autoscalers while it is aside, and the earlier
// one.
func toldLeaving(before string) edit {
	return func(o metav1.Object) {
		for key, value := range leaving() {
			annotation(key, value)(o)
		}
		annotation(call.ToldBeforeAnnotation, before)(o)
	}
}

func inJSON(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&value); err != nil {
		t.Fatalf("%s: %s", text, err)
	}
	return value
}

func TestDelete(t *testing.T) {
	resource := schema.GroupResource{Resource: "pods"}
	cases := map[string]struct {
		reason  string
		answer  error
		refused func(error) bool
	}{
		"Deleted": {reason: "The pod leaves.", refused: func(err error) bool { return err == nil }},
		"Gone":    {reason: "Somebody was quicker.", answer: apierrors.NewNotFound(resource, "a"), refused: func(err error) bool { return err == nil }},
		"Other":   {reason: "It is another pod of that name.", answer: apierrors.NewConflict(resource, "a", nil), refused: apierrors.IsConflict},
		"Refused": {reason: "A policy refuses it.", answer: apierrors.NewForbidden(resource, "a", nil), refused: apierrors.IsForbidden},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			var options metav1.DeleteOptions
			client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				options = action.(clienttesting.DeleteAction).GetDeleteOptions()
				return true, nil, tc.answer
			})
			if err := (&steps{client: client}).delete(t.Context(), webPod("a")); !tc.refused(err) {
				t.Errorf("%s\ngot %v", tc.reason, err)
			}
			uid := types.UID("a")
			if diff := cmp.Diff(metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}, options); diff != "" {
				t.Errorf("this pod and no other, with its own grace: -want, +got:\n%s", diff)
			}
		})
	}
}
