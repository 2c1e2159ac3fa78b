// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
	"k8s.io/component-helpers/resource"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/callguard/callguard/pkg/call"
)

// needsPlace reports whether a pod that leaves needs a replacement that does not exist yet.
func (s standing) needsPlace() bool {
	return s.guarded && s.unprotected == "" && s.state == call.Serving && s.pod.DeletionTimestamp == nil && metav1.GetControllerOfNoCopy(s.pod) != nil
}

// place is a node, and its free capacity.
type place struct {
	node *corev1.Node
	left corev1.ResourceList
}

// room has the nodes where new pods could run, by the nodes' properties and the pods'
// requests. Pod affinity, topology spread, volumes and quotas are not considered.
type room []*place

// room reads the free capacity of all nodes, except the leaving ones.
func (c *cluster) room(ctx context.Context, leaving map[string]bool) (room, error) {
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list nodes: %w", err)
	}
	var r room
	at := map[string]*place{}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		if !leaving[node.Name] {
			at[node.Name] = &place{node: node, left: node.Status.Allocatable.DeepCopy()}
			r = append(r, at[node.Name])
		}
	}
	pods := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.client.CoreV1().Pods("").List(ctx, o)
	})
	err = pods.EachListItem(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!="}, func(o runtime.Object) error {
		pod, is := o.(*corev1.Pod)
		if is && at[pod.Spec.NodeName] != nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			at[pod.Spec.NodeName].put(pod)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list pods: %w", err)
	}
	return r, nil
}

// asks returns a pod's requests, including one of the node's number of pods.
func asks(pod *corev1.Pod) corev1.ResourceList {
	wants := resource.PodRequests(pod, resource.PodResourcesOptions{})
	wants[corev1.ResourcePods] = *quantity.NewQuantity(1, quantity.DecimalSI)
	return wants
}

func (p *place) put(pod *corev1.Pod) {
	for name, wanted := range asks(pod) {
		if left, has := p.left[name]; has {
			left.Sub(wanted)
			p.left[name] = left
		}
	}
}

// refuses returns why a copy of a pod could not run here; empty if it could.
func (p *place) refuses(pod *corev1.Pod) string {
	if p.node.Spec.Unschedulable {
		return "cordoned"
	}
	if !ready(p.node) {
		return "not ready"
	}
	keeps := func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	if taint, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), p.node.Spec.Taints, pod.Spec.Tolerations, keeps, false); found {
		return "with taint " + taint.Key
	}
	if fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(p.node); err != nil || !fits {
		return "outside its node selector or affinity"
	}
	wants := asks(pod)
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		wanted := wants[name]
		left, has := p.left[name]
		if has && left.Cmp(wanted) < 0 && name == corev1.ResourcePods {
			return "without room for one pod more"
		}
		if has && left.Cmp(wanted) < 0 {
			return "with too little " + string(name) + " left"
		}
	}
	return ""
}

// take places a copy of a pod on the first possible node, or returns why there is none.
func (r room) take(pod *corev1.Pod) (on, why string) {
	if len(r) == 0 {
		return "", "there is no other node"
	}
	refused := map[string]int{}
	for _, p := range r {
		no := p.refuses(pod)
		if no == "" {
			p.put(pod)
			return p.node.Name, ""
		}
		refused[no]++
	}
	var parts []string
	for _, no := range slices.Sorted(maps.Keys(refused)) {
		parts = append(parts, fmt.Sprintf("%d %s", refused[no], no))
	}
	return "", fmt.Sprintf("of %s %s", plural(len(r), "other node"), strings.Join(parts, ", "))
}

// ready reports whether a node is ready. A node without the condition counts as ready.
func ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true
}
