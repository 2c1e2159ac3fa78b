// SPDX-License-Identifier: Apache-2.0

package local

import (
	"maps"
	"net"
	"slices"
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
		if _, ok := hold(port); ok {
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
	var besides []int
	for p := firstPort; p < (firstPort+lastPort)/2; p++ {
		besides = append(besides, p)
	}
	if ports, err := FreePorts(5, besides...); err != nil || slices.Min(ports) < (firstPort+lastPort)/2 {
		t.Errorf("FreePorts: got %v, %v, want none of the lower half", ports, err)
	}
}

func TestPortsOf(t *testing.T) {
	got := portsOf([]state{
		{Ports: map[string]int{"etcd": 20001}},
		{Config: Config{WebhookURLs: []string{"http://127.0.0.1:20002/webhooks", "https://livekit.example.com/webhooks"}}},
	})
	if want := map[int]bool{20001: true, 20002: true}; !maps.Equal(got, want) {
		t.Errorf("portsOf: got %v, want %v: a receiver that does not listen yet has its port, too", got, want)
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
