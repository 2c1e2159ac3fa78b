// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPreemption has pods that find no room next to agents with calls. An ordinary one
// preempts none; one of Kubernetes' highest priority tries, and is refused.
func TestPreemption(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	half := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("30")} // of a node with 64
	s.deploy(2, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Resources.Requests = half })
	s.fill()
	talking := s.pods(all)
	for name, priority := range map[string]string{"ordinary": "", "critical": "system-cluster-critical"} {
		_, err := stage.Client.CoreV1().Pods(s.ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
			Spec: corev1.PodSpec{
				NodeSelector: map[string]string{storyLabel: s.ns}, PriorityClassName: priority,
				Containers: []corev1.Container{{Name: "main", Image: "main", Resources: corev1.ResourceRequirements{Requests: half}}},
			},
		}, metav1.CreateOptions{})
		s.must(err)
	}
	s.eventually(soon, "the scheduler has looked for room for both", func() (bool, error) {
		list, err := stage.Client.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase=Pending"})
		if err != nil {
			return false, err
		}
		looked := 0
		for _, p := range list.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
					looked++
				}
			}
		}
		return looked == 2, nil
	})
	s.always(5*s1, "the agents talk", func() (bool, error) { return s.talking(), nil })
	s.there(talking...)
	s.bounds(4, 2)
	s.noneDropped()
}
