// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestClaimsOfTwoInstancesDiffer(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var states []state
	for _, name := range []string{"one", "two"} {
		c, err := newCluster(name, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.state(); !errors.Is(err, ErrNoInstance) {
			t.Errorf("state of no instance: got %v, want ErrNoInstance", err)
		}
		s, err := c.claim(t.Context(), Config{Name: name}.withDefaults(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeInstance(s, c.layout()); err != nil {
			t.Fatal(err)
		}
		states = append(states, s)
	}
	if a, b := states[0].FirstSlice, states[1].FirstSlice; b < a+DefaultNodes {
		t.Errorf("pod addresses overlap: %d and %d", a, b)
	}
	taken := portsOf(states[:1])
	for name, port := range states[1].Ports {
		if taken[port] {
			t.Errorf("both have port %d (%s)", port, name)
		}
	}
	if a, b := states[0].LiveKits[0], states[1].LiveKits[0]; a.APISecret == b.APISecret || len(a.APISecret) < 32 {
		t.Errorf("LiveKit secrets are weak or equal")
	}
	if got := states[0].LiveKits[0].String(); strings.Contains(got, states[0].LiveKits[0].APISecret) {
		t.Errorf("a LiveKit prints its secret: %s", got)
	}
}
