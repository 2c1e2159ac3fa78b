// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// An instance with real nodes has its own network namespace, which contains its kubelets,
// bridges and pods, and a veth pair into it. kube-apiserver runs at this end of the pair. The
// instance's changes to iptables and bridges disappear with the namespace.

// lastNetwork limits how many such instances run at the same time.
const lastNetwork = 60

// netns is the name of an instance's network namespace.
func netns(instance string) string { return "callguard-" + instance }

// hostAddress and nodeAddress are the two ends of the pair.
func hostAddress(network int) string { return fmt.Sprintf("10.254.%d.1", network) }
func nodeAddress(network int) string { return fmt.Sprintf("10.254.%d.2", network) }

// podNetwork contains the pods of all nodes; each node has a part of it.
func podNetwork(network int) string        { return fmt.Sprintf("10.%d.0.0/16", 64+network) }
func nodePodNetwork(network, i int) string { return fmt.Sprintf("10.%d.%d.0/24", 64+network, i) }

// The same for IPv6, if the instance has it.
func hostAddress6(network int) string       { return fmt.Sprintf("fd00:254:%d::1", network) }
func nodeAddress6(network int) string       { return fmt.Sprintf("fd00:254:%d::2", network) }
func podNetwork6(network int) string        { return fmt.Sprintf("fd00:64:%d::/48", network) }
func nodePodNetwork6(network, i int) string { return fmt.Sprintf("fd00:64:%d:%d::/64", network, i) }
func cable(network int) (host, inner string) {
	return fmt.Sprintf("cg%dh", network), fmt.Sprintf("cg%dn", network)
}

// freeNetwork returns a number that no other instance has, or 0 for an instance without a
// network.
func freeNetwork(cfg Config, others []state) (int, error) {
	if !cfg.Kubelets {
		return 0, nil
	}
	for n := 1; n <= lastNetwork; n++ {
		if !slices.ContainsFunc(others, func(s state) bool { return s.Network == n }) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("cannot find a network: %d instances with real nodes have one each; stop one you no longer need", lastNetwork)
}

// makeNetwork first removes leftovers of an instance with this name or number.
func makeNetwork(ctx context.Context, instance string, network int, six bool) error {
	removeNetwork(ctx, instance, network)
	ns := netns(instance)
	host, inner := cable(network)
	lines := []string{
		"ip netns add " + ns,
		"ip link add " + host + " type veth peer name " + inner + " netns " + ns,
		"ip address add " + hostAddress(network) + "/24 dev " + host,
		"ip link set " + host + " up",
		"ip -n " + ns + " address add " + nodeAddress(network) + "/24 dev " + inner,
		"ip -n " + ns + " link set lo up",
		"ip -n " + ns + " link set " + inner + " up",
		"ip -n " + ns + " route add default via " + hostAddress(network),
		"ip route add " + podNetwork(network) + " via " + nodeAddress(network),
		"nsenter --net=" + netnsFile(instance) + " sysctl -qw net.ipv4.ip_forward=1",
	}
	if six {
		lines = append(lines,
			"ip -6 address add "+hostAddress6(network)+"/64 dev "+host+" nodad",
			"ip -6 -n "+ns+" address add "+nodeAddress6(network)+"/64 dev "+inner+" nodad",
			"ip -6 -n "+ns+" route add default via "+hostAddress6(network),
			"ip -6 route add "+podNetwork6(network)+" via "+nodeAddress6(network),
			"nsenter --net="+netnsFile(instance)+" sysctl -qw net.ipv6.conf.all.forwarding=1",
		)
	}
	for _, line := range lines {
		if err := runLine(ctx, line); err != nil {
			return fmt.Errorf("cannot make the network of the nodes: %w", err)
		}
	}
	return nil
}

// removeNetwork removes namespace, veth pair and route. They may be gone already.
func removeNetwork(ctx context.Context, instance string, network int) {
	host, _ := cable(network)
	_ = runLine(ctx, "ip netns delete "+netns(instance))
	_ = runLine(ctx, "ip link delete "+host)
}

// netnsFile is the file that iproute2 keeps for a namespace.
func netnsFile(instance string) string { return "/run/netns/" + netns(instance) }

// runLine runs a command whose words contain no spaces.
func runLine(ctx context.Context, line string) error {
	words := strings.Fields(line)
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}
