// SPDX-License-Identifier: Apache-2.0

package local

import (
	"net"
	"strconv"
	"testing"
)

func TestFreePorts(t *testing.T) {
	ports, err := FreePorts(20)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] || port < firstPort || port > lastPort {
			t.Errorf("port %d: twice, or out of range", port)
		}
		seen[port] = true
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Errorf("port %d is not free: %v", port, err)
			continue
		}
		if portFree(port) {
			t.Errorf("port %d is listened on and counts as free", port)
		}
		_ = l.Close()
	}
	taken := map[int]bool{}
	for p := firstPort; p <= lastPort; p++ {
		taken[p] = true
	}
	if _, err := freePorts(1, taken); err == nil {
		t.Error("freePorts with all ports taken: want an error")
	}
}

func TestFreeSlices(t *testing.T) {
	others := []state{{FirstSlice: firstSlice, Config: Config{Nodes: 4}}, {FirstSlice: firstSlice + 6, Config: Config{Nodes: 1}}}
	for _, tc := range []struct {
		reason  string
		n, want int
	}{
		{"Two fit into the gap.", 2, firstSlice + 4},
		{"Three do not, and go behind.", 3, firstSlice + 7},
	} {
		if got, err := freeSlices(tc.n, others); err != nil || got != tc.want {
			t.Errorf("%s freeSlices(%d): got %d, %v, want %d", tc.reason, tc.n, got, err, tc.want)
		}
	}
	if _, err := freeSlices(lastSlice, others); err == nil {
		t.Error("freeSlices of more than there are: want an error")
	}
}
