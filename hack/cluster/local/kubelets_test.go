// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestNetworksDiffer: instances with real nodes have different networks, and others have
// none.
func TestNetworksDiffer(t *testing.T) {
	real := Config{Kubelets: true}
	first, err := freeNetwork(real, nil)
	if err != nil || first == 0 {
		t.Fatalf("the first network is %d, %v", first, err)
	}
	second, err := freeNetwork(real, []state{{Network: first}, {Network: first + 2}})
	if err != nil || second != first+1 {
		t.Errorf("the second network is %d, %v; want %d", second, err, first+1)
	}
	if none, err := freeNetwork(Config{}, nil); none != 0 || err != nil {
		t.Errorf("simulated nodes have network %d, %v; want none", none, err)
	}
	var all []state
	for i := range lastNetwork {
		all = append(all, state{Network: i + 1})
	}
	if _, err := freeNetwork(real, all); err == nil || !strings.Contains(err.Error(), "stop one you no longer need") {
		t.Errorf("no network is left, and the error is %v", err)
	}
}

// TestNodesDoNotMeet: two nodes share nothing that they would conflict over.
func TestNodesDoNotMeet(t *testing.T) {
	s := state{Config: Config{Name: "two", Nodes: 2, Kubelets: true, PodsPerNode: 20, NodeLeaseSeconds: 40}, Network: 1, Ports: map[string]int{}}
	for i, name := range portNames(s.Config) {
		s.Ports[name] = 20000 + i
	}
	l := layout{dir: "/instances/two"}
	settings := make([]map[string]any, 2)
	for i := range settings {
		raw, err := json.Marshal(kubeletConfig(s, l, NodeName(i+1)))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &settings[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"port", "healthzPort", "cgroupRoot", "containerRuntimeEndpoint", "podLogsDir", "volumePluginDir", "tlsCertFile"} {
		if settings[0][key] == settings[1][key] || settings[0][key] == nil {
			t.Errorf("both kubelets have %s %v", key, settings[0][key])
		}
	}
	if nodePodNetwork6(1, 1) == nodePodNetwork6(1, 2) || podNetwork6(1) == podNetwork6(2) || hostAddress6(1) == nodeAddress6(1) ||
		nodePodNetwork(1, 1) == nodePodNetwork(1, 2) || podNetwork(1) == podNetwork(2) {
		t.Error("two nodes or two instances share pod addresses")
	}
}
