// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports come from below the range that Linux gives to outgoing connections (32768 up): while a component is down,
// nobody's connection may take its port, nor a client that keeps dialing it connect to itself.
const (
	firstPort = 20000
	lastPort  = 32000
)

// Pod addresses are slices 127.X.0.0/16 from these; what lies below is used by machines themselves.
const (
	firstSlice = 16
	lastSlice  = 254
)

// FreePorts returns n different loopback ports on which nobody listens now, neither on TCP nor on UDP.
func FreePorts(n int) ([]int, error) {
	return freePorts(n, nil)
}

// freePorts leaves out ports that are spoken for, though perhaps not listened on now.
func freePorts(n int, taken map[int]bool) ([]int, error) {
	ports := make([]int, 0, n)
	seen := map[int]bool{}
	for tries := 0; len(ports) < n; tries++ {
		if tries > 2*(lastPort-firstPort) {
			return nil, fmt.Errorf("cannot find %d free ports from %d to %d on 127.0.0.1; stop instances you no longer need", n, firstPort, lastPort)
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		if seen[port] || taken[port] || !portFree(port) {
			continue
		}
		seen[port] = true
		ports = append(ports, port)
	}
	return ports, nil
}

func portFree(port int) bool {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		_ = tcp.Close()
		return false
	}
	return errors.Join(tcp.Close(), udp.Close()) == nil
}

// freeSlices finds n pod address slices in a row that no other instance has; the answer is X of the first, 127.X.0.0/16.
func freeSlices(n int, others []state) (int, error) {
	taken := map[int]bool{}
	for _, s := range others {
		for i := range s.Config.Nodes {
			taken[s.FirstSlice+i] = true
		}
	}
	run := 0
	for x := firstSlice; x <= lastSlice; x++ {
		if run++; taken[x] {
			run = 0
		}
		if run == n {
			return x - n + 1, nil
		}
	}
	return 0, fmt.Errorf("cannot find pod addresses for %d nodes: other instances have them; use fewer nodes or stop instances you no longer need", n)
}

func portsOf(states []state) map[int]bool {
	taken := map[int]bool{}
	for _, s := range states {
		for _, p := range s.Ports {
			taken[p] = true
		}
	}
	return taken
}
