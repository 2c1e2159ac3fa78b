// SPDX-License-Identifier: Apache-2.0

package replicas

import (
	"fmt"
	"io"
	"net/netip"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/callguard/callguard/test/trial"
)

// TestMine: each room is assigned to one of the ready replicas, about as many to each, and when one leaves, only its
// rooms are reassigned.
func TestMine(t *testing.T) {
	t.Parallel()
	as := func(own int, slice *discoveryv1.EndpointSlice) *Watcher {
		w := &Watcher{}
		w.ring.Store(ringOf(map[string]*discoveryv1.EndpointSlice{"a": slice}, []netip.Addr{netip.MustParseAddr(address(own))}))
		return w
	}
	three := sliceOf("a", 1, 2, 3)
	two := sliceOf("a", 1, 2, 3)
	two.Endpoints[2].Conditions.Serving = new(bool)
	const rooms = 3_000
	falls := map[int]int{}
	for i := range rooms {
		room, to, then := fmt.Sprint("room-", i), 0, 0
		for own := 1; own <= 3; own++ {
			if as(own, three).Mine(room) {
				if to != 0 {
					t.Fatalf("%s falls to %d and %d", room, to, own)
				}
				to = own
			}
			if as(own, two).Mine(room) {
				then = own
			}
		}
		falls[to]++
		if to == 0 || then == 0 || then == 3 || to != 3 && then != to {
			t.Fatalf("%s falls to %d of three, and to %d of two", room, to, then)
		}
	}
	for own := 1; own <= 3; own++ {
		if falls[own] < rooms/4 || falls[own] > rooms/2 {
			t.Errorf("%d of %d rooms fall to replica %d", falls[own], rooms, own)
		}
	}
	if as(9, three).Mine("room") {
		t.Error("a room falls to a replica that is not listed, though others are")
	}
}

// TestMineOfAList: the API server's list decides, and while it is empty every replica is responsible for every room.
func TestMineOfAList(t *testing.T) {
	t.Parallel()
	w, _ := start(t, fake.NewClientset(), io.Discard)
	if !w.Mine("room") {
		t.Error("a room belongs to no replica while none is listed")
	}
	going := true
	slice := sliceOf("a", ours, 2)
	slice.Endpoints[0].Conditions.Terminating = &going
	w, _ = start(t, fake.NewClientset(slice), io.Discard)
	trial.Eventually(t, "all rooms are the other replica's while this one ends", func() bool { return !w.Mine("room") && !w.Mine("other") })
}
