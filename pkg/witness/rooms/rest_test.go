// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

// wholeRead is the number of requests of one read of 40 rooms.
const wholeRead = 1 + 40

// fortyRooms has an agent in each of 40 rooms, the first of which is pod a's.
func fortyRooms() *fakeLiveKit {
	lk := newFakeLiveKit()
	for i := range 40 {
		lk.rooms[fmt.Sprintf("room-%02d", i)] = agentOf(fmt.Sprintf("PA_%d", i), fmt.Sprintf("pod-%02d", i))
	}
	return lk
}

// rested runs a story of the default project, as drain-guard reads it, in simulated time.
func rested(t *testing.T, lk *fakeLiveKit, perMinute int, story func(p *Projects, spare func(bool))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := NewProjects(ProjectsConfig{
			Default: func(context.Context) (Version, error) {
				return Version{Credentials: livekit.Credentials{URL: "http://livekit.example", APIKey: "key", APISecret: "secret"}, Always: true}, nil
			},
			Transport: direct{lk}, OnlyWanted: true,
			Settings: Settings{Resync: 3 * time.Second, MaxStaleness: 15 * time.Second, Timeout: 5 * time.Second, Concurrency: 16, RequestsPerMinute: perMinute},
			Metrics:  NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		})
		spare := func(is bool) {
			p.WantSparing(map[call.Project]call.Births{call.DefaultProject: {}}, map[call.Project]bool{call.DefaultProject: is})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		story(p, spare)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// heldPod is the pod whose agent is in the first room.
func heldPod() *call.Pod {
	return &call.Pod{UID: "pod-00", Project: call.DefaultProject, Witnesses: []call.Witness{call.Rooms, call.Gate}}
}

// TestOneHeldPodBesideFortyRooms: for 155 s nothing needs LiveKit, and it is read once, to know its size. Once it is
// needed it is known after two seconds.
func TestOneHeldPodBesideFortyRooms(t *testing.T) {
	lk := fortyRooms()
	pod := heldPod()
	rested(t, lk, 0, func(p *Projects, spare func(bool)) {
		spare(true)
		time.Sleep(155 * time.Second)
		if n := lk.requests.Load(); n != wholeRead {
			t.Errorf("%d requests in 155 s; want %d", n, wholeRead)
		}
		if p.Reading(pod, time.Now()).Known() {
			t.Error("something is known of a project that is not read")
		}
		needed := time.Now()
		spare(false)
		time.Sleep(2 * time.Second)
		reading := p.Reading(pod, time.Now())
		if n, known := reading.Calls(); !known || n != 1 || !reading.At().After(needed) {
			t.Errorf("two seconds after it is needed: %+v; want one call, read since", reading)
		}
		if n := lk.requests.Load(); n != 3*wholeRead {
			t.Errorf("%d requests; want %d, two whole reads more", n, 3*wholeRead)
		}
		lk.set(func() { delete(lk.rooms, "room-00") })
		time.Sleep(5 * time.Second)
		if n, known := p.Reading(pod, time.Now()).Calls(); !known || n != 0 {
			t.Error("the call is over, and read as such")
		}
		spare(true)
		time.Sleep(3 * time.Second)
		requests := lk.requests.Load()
		time.Sleep(time.Minute)
		if n := lk.requests.Load(); n != requests {
			t.Errorf("%d requests when it is no longer needed", n-requests)
		}
	})
}

// TestWhatAListLacksAfterARest: after a rest, a room does not count as closed because one list lacks it.
func TestWhatAListLacksAfterARest(t *testing.T) {
	for what, lacks := range map[string]func(lk *fakeLiveKit, is bool){
		"the list of rooms": func(lk *fakeLiveKit, is bool) { lk.unlisted["room-00"] = is },
		"the list of participants": func(lk *fakeLiveKit, is bool) {
			lk.rooms["room-00"] = nil
			if !is {
				lk.rooms["room-00"] = agentOf("PA_0", "pod-00")
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			lk := fortyRooms()
			pod := heldPod()
			rested(t, lk, 0, func(p *Projects, spare func(bool)) {
				spare(true)
				time.Sleep(time.Minute)
				lk.set(func() { lacks(lk, true) })
				spare(false)
				time.Sleep(time.Second)
				lk.set(func() { lacks(lk, false) })
				for range 50 {
					if n, known := p.Reading(pod, time.Now()).Calls(); known && n == 0 {
						t.Fatal("the call reads as zero")
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n, known := p.Reading(pod, time.Now()).Calls(); !known || n != 1 {
					t.Error("the call is not known in the end")
				}
			})
		})
	}
}

// TestRestEnds: a project at rest is read now and then, to know its size, and that it can be read.
func TestRestEnds(t *testing.T) {
	lk := fortyRooms()
	rested(t, lk, 0, func(_ *Projects, spare func(bool)) {
		spare(true)
		time.Sleep(time.Hour)
		if n := lk.requests.Load(); n < 5*wholeRead || n > 13*wholeRead {
			t.Errorf("%d requests in an hour; want twice %d every ten minutes or so", n, wholeRead)
		}
	})
}

// TestNoRestForWhatTakesLong: a project that takes long to read, because of its request limit, is always read, so that
// nothing has to wait once it is needed.
func TestNoRestForWhatTakesLong(t *testing.T) {
	lk := fortyRooms()
	pod := heldPod()
	rested(t, lk, 120, func(p *Projects, spare func(bool)) {
		spare(true)
		time.Sleep(2 * time.Minute)
		if n, known := p.Reading(pod, time.Now()).Calls(); !known || n != 1 {
			t.Error("it is not read on")
		}
	})
}

// TestNoRestForWhatCannotBeRead: a LiveKit that does not answer is still asked.
func TestNoRestForWhatCannotBeRead(t *testing.T) {
	lk := fortyRooms()
	lk.noList = true
	rested(t, lk, 0, func(p *Projects, spare func(bool)) {
		spare(true)
		time.Sleep(time.Minute)
		before := lk.requests.Load()
		time.Sleep(10 * time.Second)
		if lk.requests.Load() == before {
			t.Error("it is not asked any more")
		}
		lk.set(func() { lk.noList = false })
		time.Sleep(10 * time.Second)
		before = lk.requests.Load()
		time.Sleep(10 * time.Second)
		if n := lk.requests.Load(); n != before {
			t.Errorf("%d requests after it could be read", n-before)
		}
	})
}
