// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"maps"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const rolloutHash = "rollouts-pod-template-hash"

func rollouts() ownerKind {
	return ownerKind{resource: schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"}, kind: "Rollout", selector: ".status.selector"}
}

// rolloutController acts as Argo Rollouts' does on a canary without steps: a ReplicaSet for each template, whose pods it
// selects by a label of its own (utils/replicaset). The new one grows within maxSurge and the old one shrinks by what is
// available beyond maxUnavailable (CalculateReplicaCountsForBasicCanary). It deletes no pod: ReplicaSets do.
type rolloutController struct {
	*owned

	maxSurge, maxUnavailable int
}

func (c *rolloutController) reconcile(ctx context.Context, object *unstructured.Unstructured) error {
	replicas, pod, hash, err := c.wants(object)
	if err != nil {
		return err
	}
	sets, err := c.replicaSets(ctx)
	if err != nil {
		return err
	}
	var newest *appsv1.ReplicaSet
	var others []appsv1.ReplicaSet
	total, old, available := 0, 0, 0
	for i, r := range sets {
		total += int(*r.Spec.Replicas)
		if r.Labels[rolloutHash] == hash {
			newest, available = &sets[i], int(r.Status.AvailableReplicas)
			continue
		}
		if *r.Spec.Replicas > 0 {
			others = append(others, r)
			old += int(*r.Spec.Replicas)
		}
	}
	if newest == nil {
		return c.make(ctx, pod, hash)
	}
	grown := replicas
	if len(others) > 0 {
		grown = max(int(*newest.Spec.Replicas), min(replicas, int(*newest.Spec.Replicas)+replicas+c.maxSurge-total))
	}
	if err := c.resize(ctx, newest, grown); err != nil {
		return err
	}
	for down := available + old - (replicas - c.maxUnavailable); down > 0 && len(others) > 0; others = others[1:] {
		n := min(down, int(*others[0].Spec.Replicas))
		if err := c.resize(ctx, &others[0], int(*others[0].Spec.Replicas)-n); err != nil {
			return err
		}
		down -= n
	}
	return c.say(ctx, object, map[string]any{
		"replicas": int64(total), "availableReplicas": int64(available), "selector": labels.FormatLabels(c.labels),
		"currentPodHash": hash, "observedGeneration": "7", // text, as Argo has it
	})
}

// make creates the ReplicaSet of a template.
func (c *rolloutController) make(ctx context.Context, pod corev1.PodTemplateSpec, hash string) error {
	none := int32(0)
	selected := maps.Clone(c.labels)
	selected[rolloutHash] = hash
	pod.Labels[rolloutHash] = hash
	_, err := stage.Client.AppsV1().ReplicaSets(c.ns).Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: lab.AgentName + "-" + hash, Labels: pod.Labels, OwnerReferences: []metav1.OwnerReference{c.self}},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: selected}, Template: pod},
	}, metav1.CreateOptions{})
	return err
}

func (c *rolloutController) resize(ctx context.Context, r *appsv1.ReplicaSet, replicas int) error {
	if int(*r.Spec.Replicas) == replicas {
		return nil
	}
	n := int32(replicas)
	r.Spec.Replicas = &n
	_, err := stage.Client.AppsV1().ReplicaSets(c.ns).Update(ctx, r, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // the next pass does it
	}
	return err
}

// TestRolloutOfArgo: a Rollout rolls out, is drained, is scaled down and is deleted while its agents have calls.
func TestRolloutOfArgo(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	ro := s.own(rollouts(), 4, map[string]any{"strategy": map[string]any{"canary": map[string]any{"maxSurge": int64(1), "maxUnavailable": int64(0)}}})
	ro.play((&rolloutController{owned: ro, maxSurge: 1}).reconcile)
	s.steady(4)
	s.fill()
	old := s.pods(all)

	ro.rollOutTo(newImage)
	s.eventually(inTime, "four new pods serve beside the old ones", func() (bool, error) {
		return s.so(len(s.pods(func(p *corev1.Pod) bool { return image(newImage)(p) && ready(p) && stateOf(p) == call.Serving })) == 4)
	})
	s.there(old...)
	if !s.talking() {
		t.Errorf("calls ended with the rollout: %+v", s.callers.Report())
	}
	s.dial(4) // the new pods take them
	s.hangUpOn(old...)
	s.gone(inTime, old...)
	s.bounds(4+4+1, 4)

	ro.drainOf(s.nodes[0])
	s.does("uncordon", s.nodes[0])
	s.eventually(inTime, "four pods serve", func() (bool, error) { return s.so(len(s.pods(in(call.Serving))) == 4 && s.registered() == 4) })

	ro.refill()
	ro.scale(2)
	s.eventually(inTime, "two serve, and two finish", func() (bool, error) {
		return s.so(len(s.pods(in(call.Serving))) == 2 && len(s.pods(leaving)) == 2)
	})
	if !s.talking() {
		t.Errorf("calls ended with the scale-down: %+v", s.callers.Report())
	}
	leavers := s.pods(leaving)
	s.hangUpOn(leavers...)
	s.gone(inTime, leavers...)

	s.does("delete", ro.name(), ro.self.Name, "--wait=false")
	s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return s.so(len(s.pods(leaving)) == 2) })
	s.hangUpAll()
	s.eventually(inTime, "no pod is left", func() (bool, error) { return s.so(len(s.pods(all)) == 0) })
	s.noneDropped()
}
