// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// TestIsNode: every address of nodes in the informers is known.
func TestIsNode(t *testing.T) {
	kept, err := trim(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "node-1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.7"},
				{Type: corev1.NodeInternalIP, Address: "fd00::7"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.7"},
			},
			Images: []corev1.ContainerImage{{Names: []string{"large"}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if status := kept.(*corev1.Node).Status; len(status.Images) != 0 || len(status.Addresses) != 3 {
		t.Errorf("of the node's status is kept %+v, want three addresses", status)
	}
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	if err := nodes.Add(kept); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{"10.0.0.7": true, "::ffff:10.0.0.7": true, "fd00::7": true, "203.0.113.7": true, "10.0.0.8": false, "::1": false} {
		if got := IsNode(corelisters.NewNodeLister(nodes), netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is a node's: %t, want %t", address, got, want)
		}
	}
}
