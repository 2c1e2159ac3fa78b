// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// OnlyAddresses returns the part of a node's status that is kept: its IP addresses.
func OnlyAddresses(status corev1.NodeStatus) corev1.NodeStatus {
	return corev1.NodeStatus{Addresses: slices.DeleteFunc(slices.Clone(status.Addresses), func(a corev1.NodeAddress) bool {
		_, err := netip.ParseAddr(a.Address)
		return err != nil
	})}
}

// IsNode reports whether a node has this address.
func IsNode(nodes corelisters.NodeLister, addr netip.Addr) bool {
	list, _ := nodes.List(labels.Everything()) // from memory
	return slices.ContainsFunc(list, func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
			of, err := netip.ParseAddr(a.Address)
			return err == nil && of.Unmap() == addr.Unmap()
		})
	})
}
