// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
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
// beside them, which acts as Cluster Autoscaler does, takes the other five, each when its last call is over, and gives up on
// none.
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
		Remove: func(context.Context, string) error { return nil }, // it takes no pod any more, for it is cordoned
		Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- scaler.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})

	before := s.pods(all)
	s.hangUpOn(before[:6]...)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=4")
	nodesOf := func() (list []string) {
		for _, node := range s.nodes {
			if len(s.pods(on(node))) > 0 {
				list = append(list, node)
			}
		}
		return list
	}
	s.eventually(inTime, "as many serve as are wanted", func() (bool, error) {
		return s.so(len(s.pods(in(call.Serving))) == left && s.watch.able() == left)
	})
	s.always(5*s1, "six callers talk, and their nodes are there", func() (bool, error) {
		removed, _ := scaler.Removed()
		return s.talking() && !slices.ContainsFunc(nodesOf(), func(n string) bool { return slices.Contains(removed, n) }), nil
	})
	s.hangUpAll()
	// Which of them are left is the scheduler's choice: two that are half full are none that nobody needs until their calls are
	// over, and then one is.
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
