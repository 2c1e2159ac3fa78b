// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestStatus: status finds a drain that nobody watches, what it waits for, and how to continue it.
func TestStatus(t *testing.T) {
	elsewhere := func(name string) edit { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
	free := newNode(false)
	free.Name = "node-2"
	empty := newNode(true)
	empty.Name = "node-3"
	s := newStage(t, append(workload(2), newNode(true), free, empty, newNamespace(voice, true), newBudget(voice), newGuardDeployment(),
		newPod("a", draining), newPod("b", draining), newPod("c", elsewhere("node-2")), newPod("d", elsewhere("node-3"), unguarded))...)
	s.calls = map[string]int64{"a": 0, "c": 1}
	s.ends = map[string]int64{"0.5": 600, "0.9": 2400}
	common, out, errOut := newCommon()
	if err := common.status(t.Context(), s.cluster, "", nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"node-1 is cordoned\n", "2 guarded pods; of 1 pod the calls are not known", "  voice/b: draining since ", ", calls unknown: ", "(in 10m) in half of such cases",
		"\nTo go on: kubectl calls drain node-1\n  With which flags the drain began, and whether it had a --deadline, is not known: give them again\nTo keep the node: kubectl uncordon node-1 (",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out.String(), "node-2") || strings.Contains(out.String(), "node-3") || errOut.Len() > 0 {
		t.Errorf("it says of a node that is not drained, or has no guarded pod:\n%s%s", out, errOut)
	}
	out.Reset()
	if err := common.status(t.Context(), s.cluster, outputJSON, []string{"node/node-1", "node-2"}); err != nil {
		t.Fatal(err)
	}
	var is DrainStatus
	if err := json.Unmarshal(out.Bytes(), &is); err != nil || is.Kind != "DrainStatus" || len(is.Nodes) != 2 {
		t.Fatalf("with -o json it says %v:\n%s", err, out)
	}
	one, two := is.Nodes[0], is.Nodes[1]
	if !one.Cordoned || one.Resume != "kubectl calls drain node-1" || one.Left.Calls != nil || one.Left.UnknownPods != 1 || *one.ExplainedPods.Calls.MedianSeconds != 600 {
		t.Errorf("of node-1 it says %+v", one)
	}
	if two.Cordoned || two.Left.Calls == nil || *two.Left.Calls != 1 {
		t.Errorf("of node-2 it says %+v", two)
	}
}

// TestStatusOfNone: it says that no drain is in progress, and which name is wrong.
func TestStatusOfNone(t *testing.T) {
	s := newStage(t, newNode(false), newPod("a"))
	common, out, errOut := newCommon()
	if err := common.status(t.Context(), s.cluster, "", nil); err != nil || out.Len() > 0 || errOut.String() != "No drain is under way: no cordoned node has guarded pods.\n" {
		t.Errorf("it says %v\n%s%s", err, out, errOut)
	}
	if err := common.status(t.Context(), s.cluster, "", []string{"node-9"}); err == nil || !strings.Contains(err.Error(), `there is no node "node-9"; kubectl get nodes lists them`) {
		t.Errorf("it says %v", err)
	}
	s.refuse("list", "nodes")
	if err := common.status(t.Context(), s.cluster, "", nil); err == nil || !strings.Contains(err.Error(), "no right to list") || errors.Is(err, errWaiting) {
		t.Errorf("it says %v", err)
	}
}
