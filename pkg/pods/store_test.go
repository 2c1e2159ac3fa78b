// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// TestOfIsEveryPod: pods, ReplicaSets and namespaces are created, changed and deleted in
// any order. The pods of an object are those that a scan of all pods finds.
func TestOfIsEveryPod(t *testing.T) {
	const seed = 11
	random := rand.New(rand.NewPCG(seed, seed))
	s := NewStore()
	some := func(what string) string { return fmt.Sprintf("%s-%d", what, random.IntN(3)) }
	in := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: some("ns"), Name: name} }
	for range 20_000 {
		name := in(some("set"))
		set := &Object{Kind: ReplicaSet, NamespacedName: name, UID: types.UID(name.String() + some("uid")), Owner: call.Owner{Kind: Deployment, Name: some("web")}}
		namespace := &Object{Kind: Namespace, NamespacedName: types.NamespacedName{Name: name.Namespace}}
		pod := &call.Pod{NamespacedName: types.NamespacedName{Namespace: name.Namespace, Name: some("pod")}, Node: some("node"), Hash: "1"}
		pod.UID = types.UID(pod.String() + some("uid"))
		pod.Owner = []call.Owner{{}, {Kind: ReplicaSet, Name: name.Name, UID: set.UID}, {Kind: Deployment, Name: some("web")}, {Kind: ReplicaSet, Name: some("web") + "-1", UID: "gone"}}[random.IntN(4)]
		switch random.IntN(8) {
		case 0, 1, 2:
			s.SetPod(pod)
		case 3:
			s.DeletePod(pod.NamespacedName, pod.UID)
		case 4:
			s.SetObject(set)
		case 5:
			s.DeleteObject(ReplicaSet, set.NamespacedName, set.UID)
		case 6:
			s.SetObject(namespace)
		case 7:
			s.DeleteObject(Namespace, namespace.NamespacedName, "")
		}
		kind := []string{Deployment, ReplicaSet, Node}[random.IntN(3)]
		of := in(map[string]string{Deployment: some("web"), ReplicaSet: some("set"), Node: some("node")}[kind])
		if kind == Node {
			of.Namespace = ""
		}
		want := s.In(of.Namespace, func(p *call.Pod) bool {
			owner, top := s.workload(p)
			return kind == Node && p.Node == of.Name || owner.Kind == kind && owner.Name == of.Name || top.Kind == kind && top.Name == of.Name
		})
		got := slices.SortedFunc(slices.Values(s.Of(kind, of)), (*call.Pod).Compare)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("of %s %s -every pod, +Of:\n%s", kind, of, diff)
		}
	}
	for name, names := range s.byName {
		for pod := range names {
			for uid, p := range s.byUID {
				if p.Namespace == name && p.Name == pod {
					s.DeletePod(p.NamespacedName, uid)
				}
			}
		}
	}
	if len(s.members)+len(s.entered)+len(s.owned)+len(s.byUID) > 0 {
		t.Errorf("without pods %d members, %d entries, %d owners and %d UIDs are kept", len(s.members), len(s.entered), len(s.owned), len(s.byUID))
	}
}
