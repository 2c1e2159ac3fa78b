// SPDX-License-Identifier: Apache-2.0

// Two hundred callers on forty nodes need the whole machine: make e2e-fleet.

//go:build agents

package drain

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

// TestFortyNodesLeave has eighty agents with two hundred calls on forty nodes, as at noon. Nine of ten callers hang up and the
// Deployment shrinks to what one node can hold. An autoscaler that acts like Cluster Autoscaler removes every node without a
// call while twenty callers talk, and all but one when they have hung up.
func TestFortyNodesLeave(t *testing.T) {
	const size, agents, calls, slots, jobs, talkOn, left = 40, 80, 200, 5, 5, 20, 4
	if *nodeCount < size {
		t.Fatalf("the stage has %d nodes; give -nodes %d", *nodeCount, size)
	}
	s := tell(t, size)
	s.deploy(agents, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "true"
		d.Spec.Template.Annotations[fleet.MaxJobsAnnotation] = strconv.Itoa(jobs)
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *cpus(12)}
	})
	s.first(calls)
	if r := s.callers.Report(); !s.talking() {
		t.Fatalf("before load falls, %d calls are up, %d unanswered, and dropped %v; is the machine too busy?", r.Up, r.Unanswered, r.Dropped)
	}
	scaler := &fleet.Autoscaler{
		Client: stage.Client, Nodes: storyLabel + "=" + s.ns, Slots: slots,
		Scan: time.Second, Unneeded: 30 * time.Second, Evict: 10 * time.Second, Failed: 5 * time.Second,
		Remove: func(context.Context, string) error { return nil }, // the node is cordoned, so no pod comes to it
		Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	s.autoscaled(scaler)

	s.hangUp(s.calls[talkOn:]...)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas="+strconv.Itoa(left))
	fell := time.Now()
	s.eventually(2*inTime, "as many serve as are wanted", func() (bool, error) {
		return s.so(len(s.pods(in(call.Serving))) == left && s.watch.able() == left)
	})
	s.eventually(2*inTime, "only nodes with pods are left, and twenty callers talk", func() (bool, error) {
		removed, _ := scaler.Removed()
		if r := s.callers.Report(); !s.talking() {
			return false, fmt.Errorf("%d calls are up, %d were completed, %d unanswered, and dropped %v", r.Up, r.Completed, r.Unanswered, r.Dropped)
		}
		return s.so(len(removed) >= size-talkOn-left && len(removed) == size-len(s.inUse()))
	})
	while, _ := scaler.Removed()
	t.Logf("%d of %d nodes are gone %.0f s after load fell, while %d callers talk", len(while), size, time.Since(fell).Seconds(), talkOn)

	s.hangUpAll()
	over := time.Now()
	s.eventually(2*inTime, "one node is left", func() (bool, error) {
		removed, _ := scaler.Removed()
		return s.so(len(removed) == size-1 && len(s.pods(all)) == left && len(s.inUse()) == 1)
	})
	removed, gaveUp := scaler.Removed()
	if i := slices.IndexFunc(s.inUse(), func(n string) bool { return slices.Contains(removed, n) }); i >= 0 {
		t.Errorf("node %s has pods and is removed", s.inUse()[i])
	}
	t.Logf("%d of %d nodes are gone %.0f s after the last call; the autoscaler gave up on one %d times; %d of %d calls were dropped",
		len(removed), size, time.Since(over).Seconds(), gaveUp, len(s.callers.Report().Dropped), calls)
	s.noneDropped()
}
