// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
)

// Ports are below the range of Linux's outgoing connections (from 32768): while a component is down, no connection can
// take its port, and a client that keeps dialing it cannot connect to itself.
const (
	firstPort = 20000
	lastPort  = 32000
)

// Pod addresses are slices 127.X.0.0/16 from this number on; lower ones are used by machines themselves.
const (
	firstSlice = 16
	lastSlice  = 254
)

// FreePorts returns n different loopback ports on which nothing listens now, on TCP or UDP. It excludes the ports in
// besides, for example those it returned before.
func FreePorts(n int, besides ...int) ([]int, error) {
	taken := map[int]bool{}
	for _, port := range besides {
		taken[port] = true
	}
	return freePorts(n, taken)
}

// freePorts excludes ports that are reserved, even if nothing listens on them now. It keeps the chosen ports open until
// it has all.
func freePorts(n int, taken map[int]bool) (ports []int, err error) {
	var held []io.Closer
	defer func() {
		for _, h := range held {
			err = errors.Join(err, h.Close())
		}
	}()
	for tries := 0; len(ports) < n; tries++ {
		if tries > 2*(lastPort-firstPort) {
			return nil, fmt.Errorf("cannot find %d free ports from %d to %d on 127.0.0.1; stop instances you no longer need", n, firstPort, lastPort)
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		if taken[port] {
			continue
		}
		both, ok := hold(port)
		held = append(held, both...)
		if ok {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// hold listens on a port, and reports whether it could. The caller closes the result in both cases.
func hold(port int) (held []io.Closer, ok bool) {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, false
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return []io.Closer{tcp}, false
	}
	return []io.Closer{tcp, udp}, true
}

// freeSlices finds n consecutive pod address slices that no other instance has. It returns X of the first, 127.X.0.0/16.
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

// portsOf returns the ports of instances and of the receivers of their webhooks, which may not listen yet.
func portsOf(states []state) map[int]bool {
	taken := map[int]bool{}
	for _, s := range states {
		for _, p := range s.Ports {
			taken[p] = true
		}
		for _, raw := range s.Config.WebhookURLs {
			if u, err := url.Parse(raw); err == nil {
				if p, err := strconv.Atoi(u.Port()); err == nil {
					taken[p] = true
				}
			}
		}
	}
	return taken
}
