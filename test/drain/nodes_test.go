// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// TestNodesLeave has twelve agents on six nodes, and load falls until one node can hold all that are left. A node autoscaler
// that acts like Cluster Autoscaler removes the other five, each when its last call is over, and gives up on none.
func TestNodesLeave(t *testing.T) {
	t.Parallel()
	const slots, left = 5, 4 // pods of a node, and those that are left
	s := tell(t, 6)
	s.deploy(12, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "true"
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *cpus(12)}
	})
	s.fill()
	scaler := &fleet.Autoscaler{
		Client: stage.Client, Nodes: storyLabel + "=" + s.ns, Slots: slots,
		Scan: time.Second, Unneeded: 15 * time.Second, Evict: 10 * time.Second, Failed: 5 * time.Second,
		Remove: func(context.Context, string) error { return nil }, // the node is cordoned, so no pod comes to it
		Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	s.autoscaled(scaler)

	before := s.pods(all)
	s.hangUpOn(before[:6]...)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=4")
	s.eventually(inTime, "as many serve as are wanted", func() (bool, error) {
		return s.so(len(s.pods(in(call.Serving))) == left && s.watch.able() == left)
	})
	s.always(5*s1, "six callers talk, and their nodes are there", func() (bool, error) {
		removed, _ := scaler.Removed()
		return s.talking() && !slices.ContainsFunc(s.inUse(), func(n string) bool { return slices.Contains(removed, n) }), nil
	})
	s.hangUpAll()
	// Where the remaining pods are is the scheduler's choice. If two nodes are half full, both are needed until the calls are
	// over, and then only one.
	s.eventually(2*inTime, "five of six nodes are gone", func() (bool, error) {
		removed, _ := scaler.Removed()
		return s.so(len(removed) == 5 && len(s.pods(all)) == left)
	})
	if _, gaveUp := scaler.Removed(); gaveUp > 0 {
		t.Errorf("the autoscaler gave up on a node %d times: its pods were to leave before it came for it", gaveUp)
	}
	s.bounds(12+left, left)
	s.noneDropped()
}

// TestNodesLeaveKarpenter has twelve agents on six nodes that hold two each, and load falls until two nodes can hold all that
// are left. An autoscaler that acts like Karpenter removes the other four, each when its last call is over and no pod has
// arrived or left for consolidateAfter. It evicts no pod: because of the guard's budget, a node with a guarded pod is no
// candidate.
func TestNodesLeaveKarpenter(t *testing.T) {
	t.Parallel()
	const slots, left = 2, 4
	s := tell(t, 6)
	s.deploy(12, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *cpus(30)}
	})
	s.fill()
	scaler := &fleet.Karpenter{
		Client: stage.Client, Nodes: storyLabel + "=" + s.ns, Slots: slots, Sizes: []int{1, slots}, Budget: 10,
		Times: fleet.KarpenterTimes{After: 5 * time.Second, Poll: time.Second, Validate: 2 * time.Second, Drain: time.Second},
		Add: func(context.Context, int) (string, error) {
			return "", errors.New("a guarded pod's node was to be replaced")
		},
		Remove: func(context.Context, string) error { return nil }, // the node is tainted, so no pod comes to it
		Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	s.autoscaled(scaler)

	s.hangUpOn(s.pods(all)[:6]...)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=4")
	s.eventually(inTime, "as many serve as are wanted", func() (bool, error) {
		return s.so(len(s.pods(in(call.Serving))) == left && s.watch.able() == left)
	})
	s.always(5*s1, "six callers talk, and their nodes are there", func() (bool, error) {
		removed, _ := scaler.Removed()
		return s.talking() && !slices.ContainsFunc(s.inUse(), func(n string) bool { return slices.Contains(removed, n) }), nil
	})
	s.hangUpAll()
	s.eventually(inTime, "four of six nodes are gone", func() (bool, error) {
		removed, _ := scaler.Removed()
		return s.so(len(removed) == 4 && len(s.pods(all)) == left && len(s.inUse()) == 2)
	})
	if _, gaveUp := scaler.Removed(); gaveUp > 0 {
		t.Errorf("Karpenter gave up on a node %d times; want none that it tried to replace", gaveUp)
	}
	s.bounds(12, left)
	s.noneDropped()
}

// autoscaled runs a node autoscaler during the story.
func (s *story) autoscaled(scaler interface {
	Run(ctx context.Context) error
}) {
	ctx, stop := context.WithCancel(s.t.Context())
	ran := make(chan error, 1)
	go func() { ran <- scaler.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			s.t.Error(err)
		}
	})
}

// inUse returns the nodes with pods of the story.
func (s *story) inUse() []string {
	return slices.DeleteFunc(slices.Clone(s.nodes), func(node string) bool { return len(s.pods(on(node))) == 0 })
}
