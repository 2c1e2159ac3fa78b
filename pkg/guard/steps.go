// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
)

// fieldManager is the field manager of what the guard writes.
const fieldManager = "callguard-drain-guard"

// The deletion costs of pods that leave, below the zero of all others.
const (
	costAnnotation = corev1.PodDeletionCost
	costLeaving    = "-1000"
	costReleased   = "-2000"
)

// steps writes pods. Each step is one request that is valid only for the pod as it was
// seen. If the pod has changed meanwhile, the next look decides again.
type steps struct {
	client kubernetes.Interface
	costs  bool // set deletion costs in the same request
}

// change is a step's change of a pod's metadata. A null removes a key.
type change struct {
	UID             types.UID          `json:"uid"`
	ResourceVersion string             `json:"resourceVersion"`
	Labels          map[string]*string `json:"labels,omitempty"`
	Annotations     map[string]*string `json:"annotations,omitempty"`
	// OwnerReferences replace those of the pod, possibly by none; nil leaves them.
	OwnerReferences *[]metav1.OwnerReference `json:"ownerReferences,omitempty"`
}

// setAside detaches a pod from its ReplicaSet and makes the ReplicaSet's controller its
// owner. Its calls, Services and NetworkPolicies are not affected.
func (s *steps) setAside(ctx context.Context, pod *corev1.Pod, to metav1.OwnerReference, why call.Mark) (*corev1.Pod, error) {
	isController := true
	refs := []metav1.OwnerReference{{APIVersion: to.APIVersion, Kind: to.Kind, Name: to.Name, UID: to.UID, Controller: &isController}}
	for _, ref := range pod.OwnerReferences {
		if ref.Controller == nil || !*ref.Controller {
			refs = append(refs, ref)
		}
	}
	key := call.HashLabel(pod.Labels)
	hash := pod.Labels[key]
	aside, mark := hash+call.AsideSuffix, why.String()
	annotations := map[string]*string{call.HashAnnotation: &hash, call.AsideAnnotation: &mark}
	tellLeaving(pod, annotations)
	return s.patch(ctx, pod, change{
		Labels:          map[string]*string{key: &aside},
		Annotations:     s.cost(annotations, costLeaving),
		OwnerReferences: &refs,
	})
}

// drain marks a pod as one that takes no new calls.
func (s *steps) drain(ctx context.Context, pod *corev1.Pod, why call.Mark) (*corev1.Pod, error) {
	mark := why.String()
	return s.patch(ctx, pod, change{Annotations: s.cost(map[string]*string{call.DrainingAnnotation: &mark}, costLeaving)})
}

// release unlocks a pod.
func (s *steps) release(ctx context.Context, pod *corev1.Pod, intent call.Intent) (*corev1.Pod, error) {
	label, annotations := string(intent), map[string]*string{}
	tellAgain(pod, annotations)
	return s.patch(ctx, pod, change{
		Labels:      map[string]*string{call.ReleasedLabel: &label},
		Annotations: s.cost(annotations, costReleased),
	})
}

// handBack unlocks a pod, and returns one that is aside to its ReplicaSet, which adopts it
// and deletes the pods that it then has too many of.
//
// A pod that was leaving probably has calls, because an idle one would have been released.
// So its deletion cost is removed, or it would be deleted before idle pods that serve. A
// released pod keeps its cost, because it was known to be idle.
func (s *steps) handBack(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	unlock := string(call.Unlock)
	c := change{Labels: map[string]*string{}, Annotations: map[string]*string{}}
	if !call.IsReleased(pod.Labels) {
		c.Labels[call.ReleasedLabel] = &unlock
	}
	if pod.Annotations[costAnnotation] == costLeaving {
		c.Annotations[costAnnotation] = nil
	}
	tellAgain(pod, c.Annotations)
	key := call.HashLabel(pod.Labels)
	if hash := pod.Annotations[call.HashAnnotation]; hash != "" && pod.Labels[key] == hash+call.AsideSuffix {
		c.Labels[key] = &hash
		c.Annotations[call.HashAnnotation], c.Annotations[call.AsideAnnotation] = nil, nil
		refs := []metav1.OwnerReference{}
		for _, ref := range pod.OwnerReferences {
			if ref.Controller == nil || !*ref.Controller {
				refs = append(refs, ref)
			}
		}
		c.OwnerReferences = &refs
	}
	return s.patch(ctx, pod, c)
}

// delete deletes a released pod with its own termination grace period.
func (s *steps) delete(ctx context.Context, pod *corev1.Pod) error {
	err := s.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *steps) patch(ctx context.Context, pod *corev1.Pod, c change) (*corev1.Pod, error) {
	c.UID, c.ResourceVersion = pod.UID, pod.ResourceVersion
	body, err := json.Marshal(map[string]any{"metadata": c})
	if err != nil {
		return nil, fmt.Errorf("cannot write a change of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
}

func (s *steps) cost(annotations map[string]*string, cost string) map[string]*string {
	if !s.costs {
		return annotations
	}
	annotations[costAnnotation] = &cost
	return annotations
}
