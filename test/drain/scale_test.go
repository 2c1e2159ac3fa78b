// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const s1 = time.Second

// TestScaleToZero ends no call: the Deployment has none left, its pods finish.
func TestScaleToZero(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(3)
	s.fill()
	pods := s.pods(all)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=0")
	s.eventually(inTime, "nobody takes new calls", func() (bool, error) { return len(s.pods(leaving)) == 3, nil })
	s.eventually(soon, "the Deployment has no replicas", func() (bool, error) {
		d, err := stage.Client.AppsV1().Deployments(s.ns).Get(t.Context(), lab.AgentName, metav1.GetOptions{})
		return err == nil && d.Status.Replicas == 0, err
	})
	s.there(pods...)
	for _, pod := range pods {
		s.hangUpOn(pod)
		s.gone(inTime, pod)
	}
	s.bounds(3, 0)
	s.noneDropped()
}

// TestScaleDownTakesTheIdle: of four pods on a node, the idle ones leave and the busy ones stay. With several nodes the
// emptiest comes first, see TestNodesLeave.
func TestScaleDownTakesTheIdle(t *testing.T) {
	t.Parallel()
	s := tell(t, 1)
	s.deploy(4)
	s.fill()
	idle := s.pods(all)[:2]
	s.hangUpOn(idle...)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=2")
	s.gone(inTime, idle...)
	if n := len(s.pods(in(call.Serving))); n != 2 {
		t.Errorf("%d pods serve; want the two that talk: %s", n, s.watch.describe())
	}
	s.bounds(4, 2)
	s.noneDropped()
}

// TestThinSpread scales ten pods with a call each down to two. The other eight finish aside.
func TestThinSpread(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(10)
	s.fill()
	hpa := lab.Autoscaler(s.ns, 10, lab.ObjectForm(), 0)
	two := int32(2)
	hpa.Spec.MinReplicas = &two
	_, err := stage.Client.AutoscalingV2().HorizontalPodAutoscalers(s.ns).Create(t.Context(), hpa, metav1.CreateOptions{})
	s.must(err)
	s.eventually(2*inTime, "two pods serve and eight finish", func() (bool, error) {
		return len(s.pods(in(call.Serving))) == 2 && len(s.pods(leaving)) == 8, nil
	})
	d, err := stage.Client.AppsV1().Deployments(s.ns).Get(t.Context(), lab.AgentName, metav1.GetOptions{})
	s.must(err)
	if *d.Spec.Replicas != 2 {
		t.Errorf("the autoscaler wants %d replicas; want 2", *d.Spec.Replicas)
	}
	s.always(10*s1, "ten callers talk", func() (bool, error) { return s.talking() && len(s.pods(all)) == 10, nil })
	leavers := s.pods(leaving)
	s.hangUpOn(leavers...)
	s.gone(inTime, leavers...)
	s.bounds(10, 2)
	s.noneDropped()
}

// TestMinAvailable: a workload with its own minimum can be drained before replacements are ready; there is no room for
// any.
func TestMinAvailable(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4, func(d *appsv1.Deployment) {
		d.Annotations = map[string]string{call.MinAvailableAnnotation: "50%"}
		half := intstr.FromString("50%") // how many replacements may be on their way
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &half}
		// Two to a node, so that the other node has room for none.
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *cpus(30)}
	})
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	drain := s.drain(s.nodes[0])
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) { return len(s.pods(leaving)) == len(leavers), nil })
	s.hangUpOn(leavers...)
	s.ends(drain, inTime)
	s.bounds(8, 2)
	s.noneDropped()
}
