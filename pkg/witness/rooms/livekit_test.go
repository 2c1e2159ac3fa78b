// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	protocol "github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

// number names a room as telephony does.
const number = "call-+4930123456"

// asAdapter and asGuard are the default settings of the two programs.
func asAdapter(c *Config) {
	c.Settings = Settings{Resync: 15 * time.Second, MaxStaleness: 45 * time.Second, Timeout: 5 * time.Second, Concurrency: 16, Hints: true}
}

func asGuard(c *Config) {
	c.Settings = Settings{Resync: 3 * time.Second, MaxStaleness: 15 * time.Second, Timeout: 5 * time.Second, Concurrency: 16}
}

// podOf names the pod of a room's agent.
func podOf(i int) types.UID { return types.UID(fmt.Sprint("pod-", i)) }

// withRooms returns a LiveKit with a number of rooms, each with an agent of another pod.
func withRooms(n int) *fakeLiveKit {
	lk := newFakeLiveKit()
	for i := range n {
		lk.rooms[fmt.Sprint("r", i)] = agentOf(fmt.Sprint("PA_", i), string(podOf(i)))
	}
	return lk
}

// allRead reports whether each pod of a number of rooms is known to hold a call.
func allRead(r *Reader, n int) func() bool {
	return func() bool {
		for i := range n {
			if !reads(r, podOf(i), 1)() {
				return false
			}
		}
		return true
	}
}

// throughout checks a condition for as long as it has to hold, in a synctest's time.
func throughout(t *testing.T, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(100 * time.Millisecond) {
		if !holds() {
			t.Fatalf("not true any more after %s: %s", time.Since(began), what)
		}
	}
}

// soon is trial.Eventually for slower conditions.
func soon(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > limit {
			t.Fatalf("did not happen within %s: %s", limit, what)
		}
	}
}

// TestKnownAtSixtyRequestsAMinute has a limit, from a flag or from a server's 429, and knows
// all rooms at all times.
func TestKnownAtSixtyRequestsAMinute(t *testing.T) {
	const (
		rooms, limit = 12, 60
		underWay     = 16 // requests at once, when the first of them is refused
	)
	for name, set := range map[string]int{"Set": limit, "Learned": 0} {
		t.Run(name, func(t *testing.T) {
			lk := withRooms(rooms)
			lk.limit = limit
			settings := func(c *Config) { asAdapter(c); c.RequestsPerMinute = set }
			inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
				soon(t, time.Minute, "all rooms are known", allRead(r, rooms))
				throughout(t, 30*time.Minute, "all rooms are known", allRead(r, rooms))
				most, refused := lk.counted()
				if set > 0 && refused > 0 || refused > underWay {
					t.Errorf("%d requests were refused", refused)
				}
				if most > limit+underWay || set > 0 && most > limit {
					t.Errorf("%d requests within a minute", most)
				}
				t.Logf("at most %d requests within a minute, %d in all, %d refused", most, lk.requests.Load(), refused)

				// Calls end and begin, one a minute, and are seen within two sweeps.
				for i := range 10 {
					lk.set(func() {
						delete(lk.rooms, fmt.Sprint("r", i))
						lk.rooms[fmt.Sprint("new", i)] = agentOf(fmt.Sprint("PA_new", i), "new")
					})
					began := time.Now()
					soon(t, 40*time.Second, "the call that ended is gone, and the one that began is there", func() bool {
						return reads(r, podOf(i), 0)() && reads(r, "new", i+1)()
					})
					time.Sleep(time.Minute - time.Since(began))
				}
				if most, _ := lk.counted(); set > 0 && most > limit {
					t.Errorf("%d requests within a minute", most)
				}
			})
		})
	}
}

// TestErrorsAskNoMore counts requests while LiveKit fails in each way: no more than when it
// works.
func TestErrorsAskNoMore(t *testing.T) {
	const rooms = 12
	perMinute := func(lk *fakeLiveKit) int64 {
		before := lk.requests.Load()
		time.Sleep(10 * time.Minute)
		return (lk.requests.Load() - before) / 10
	}
	cases := map[string]func(*fakeLiveKit){
		"TooMany":  func(lk *fakeLiveKit) { lk.limit = 1 },
		"NoList":   func(lk *fakeLiveKit) { lk.noList = true },
		"WrongKey": func(lk *fakeLiveKit) { lk.secret = "other" },
		"AllBroken": func(lk *fakeLiveKit) {
			for i := range rooms {
				lk.broken[fmt.Sprint("r", i)] = true
			}
		},
		"OneBroken": func(lk *fakeLiveKit) { lk.broken["r1"] = true },
	}
	for name, breaks := range cases {
		t.Run(name, func(t *testing.T) {
			lk := withRooms(rooms)
			inNoTime(t, lk, asAdapter, func(t *testing.T, r *Reader) {
				soon(t, time.Minute, "all rooms are known", allRead(r, rooms))
				well := perMinute(lk)
				lk.set(func() { breaks(lk) })
				if ill := perMinute(lk); ill > well+well/10+1 { // sweeps come after a random time
					t.Errorf("%d requests a minute, and %d while all was well", ill, well)
				}
			})
		})
	}
}

// TestDeadNode silences the node of half of the rooms, which LiveKit takes three seconds to
// report for each: their pods are unknown, and all others are always known.
func TestDeadNode(t *testing.T) {
	const rooms = 60
	for name, settings := range map[string]func(*Config){"Adapter": asAdapter, "Guard": asGuard} {
		t.Run(name, func(t *testing.T) {
			lk := withRooms(rooms)
			lk.byNodes = true
			inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
				soon(t, time.Minute, "all rooms are known", allRead(r, rooms))
				lk.set(func() {
					for i := range rooms / 2 {
						lk.silent[fmt.Sprint("r", i)] = true
					}
				})
				died := time.Now()
				throughout(t, 5*time.Minute, "the living node's rooms are known", func() bool {
					for i := range rooms {
						switch known := r.Reading(podOf(i), time.Now()).Known(); {
						case reads(r, podOf(i), 0)():
							t.Fatalf("pod %d reads zero", i)
						case i >= rooms/2 && !known:
							t.Logf("pod %d: %s", i, r.Reading(podOf(i), time.Now()).Reason())
							return false
						case i < rooms/2 && known && time.Since(died) > 2*r.cfg.MaxStaleness:
							t.Fatalf("pod %d is known", i)
						}
					}
					return reads(r, "idle", 0)()
				})
				if why := r.Reading(podOf(0), time.Now()).Reason(); !strings.Contains(why, "room RM_"+sidOf("r0")+" of this pod was last known at") ||
					!strings.Contains(why, "none of its nodes answers for the room") {
					t.Errorf("the reason is: %s", why)
				}
				// A release needs readings after the mark: those of the living pods continue.
				before := time.Now()
				soon(t, 30*time.Second, "the living are read anew", func() bool { return r.Reading(podOf(rooms-1), time.Now()).At().After(before) })

				// The node is back, without its rooms: they are in doubt, then gone.
				lk.set(func() {
					clear(lk.silent)
					for i := range rooms / 2 {
						delete(lk.rooms, fmt.Sprint("r", i))
					}
				})
				soon(t, 2*time.Minute, "the dead node's calls are gone", reads(r, podOf(0), 0))
			})
		})
	}
}

// TestNodeDiedBefore starts when a node is already dead: the agents in its rooms are
// unknown, so pods that only LiveKit counts are unknown, and others are flagged.
func TestNodeDiedBefore(t *testing.T) {
	lk := withRooms(4)
	lk.byNodes, lk.silent["r0"] = true, true
	inNoTime(t, lk, asGuard, func(t *testing.T, r *Reader) {
		p := &Projects{origins: NewOrigins(nil), readers: map[call.Project][]*bound{call.DefaultProject: {{Reader: r}}}}
		alone := &call.Pod{UID: podOf(1), Project: call.DefaultProject, Witnesses: []call.Witness{call.Rooms}}
		two := &call.Pod{UID: podOf(1), Project: call.DefaultProject, Witnesses: call.DefaultWitnesses()}
		soon(t, time.Minute, "the others are known", reads(r, podOf(1), 1))
		throughout(t, time.Minute, "the others are known", reads(r, podOf(1), 1))
		if reading := p.Reading(two, time.Now()); !reading.Known() || !reading.Unattributed() {
			t.Errorf("a pod with a second witness: %+v", reading)
		}
		if reading := p.Reading(alone, time.Now()); reading.Known() || !strings.Contains(reading.Reason(), "does not say who is in 1 rooms") {
			t.Errorf("a pod without one: %+v", reading)
		}
		lk.set(func() { clear(lk.silent) })
		soon(t, time.Minute, "the room is read", reads(r, podOf(0), 1))
		if reading := p.Reading(alone, time.Now()); !reading.Known() {
			t.Errorf("it is still unknown: %s", reading.Reason())
		}
	})
}

// TestOneUnreadableRoom: only its own seats are unknown, and it is identified by its id,
// never by its name, which may be a caller's number.
func TestOneUnreadableRoom(t *testing.T) {
	for name, settings := range map[string]func(*Config){"Adapter": asAdapter, "Guard": asGuard} {
		t.Run(name, func(t *testing.T) {
			var log trial.Log
			lk := withRooms(3)
			lk.rooms[number] = agentOf("PA_n", "pod-n")
			logged := func(c *Config) {
				settings(c)
				c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}
			inNoTime(t, lk, logged, func(t *testing.T, r *Reader) {
				soon(t, time.Minute, "all rooms are known", func() bool { return allRead(r, 3)() && reads(r, "pod-n", 1)() })
				lk.set(func() { lk.broken[number] = true })
				throughout(t, 3*time.Minute, "the others are known", func() bool { return allRead(r, 3)() && reads(r, "idle", 0)() })
				why := r.Reading("pod-n", time.Now()).Reason()
				if !strings.Contains(why, "RM_"+sidOf(number)) || !strings.Contains(why, "500 Internal Server Error") || strings.Contains(why, "4930") {
					t.Errorf("the reason is: %s", why)
				}
				r.Heed(Event{Name: "track_published", Room: number, Agent: true})
				lk.set(func() { clear(lk.broken) })
				soon(t, time.Minute, "it is known again", reads(r, "pod-n", 1))
				if strings.Contains(log.String(), "4930") {
					t.Errorf("the log names the room: %s", log.String())
				}
			})
		})
	}
}

// TestLargeMetadataAndLongNames: the most that LiveKit allows, or can be set to allow, hides
// nothing: 512 KiB of metadata in each room and participant, and a name of 1,100 bytes,
// which a server with limit.max_room_name_length: 4000 accepted.
func TestLargeMetadataAndLongNames(t *testing.T) {
	lk := withRooms(3)
	lk.metadata = strings.Repeat("m", 512<<10)
	long := strings.Repeat("n", 1_100)
	lk.rooms[long] = agentOf("PA_l", "pod-l")
	lk.rooms[long][0].Metadata = lk.metadata
	lk.rooms[long][0].Attributes["a"] = lk.metadata
	inNoTime(t, lk, asAdapter, func(t *testing.T, r *Reader) {
		soon(t, time.Minute, "all rooms are known", func() bool { return allRead(r, 3)() && reads(r, "pod-l", 1)() })
	})
}

// TestManyRoomsWithinALimit: the guard reads every room before a zero counts, however long
// that takes within the limit, and dates the zero accordingly.
func TestManyRoomsWithinALimit(t *testing.T) {
	const rooms = 100
	lk := withRooms(rooms)
	settings := func(c *Config) { asGuard(c); c.RequestsPerMinute = 300 }
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		soon(t, 3*time.Minute, "all rooms are known", allRead(r, rooms))
		throughout(t, 10*time.Minute, "all rooms are known", allRead(r, rooms))
		marked := time.Now()
		soon(t, 3*time.Minute, "all rooms were read after the mark", func() bool { return r.Reading("idle", time.Now()).At().After(marked) })
		t.Logf("a zero after the mark takes %s with %d rooms", time.Since(marked), rooms)
		lk.set(func() { lk.rooms["late"] = agentOf("PA_late", "pod-late") })
		joined := time.Now()
		soon(t, 3*time.Minute, "the agent is read", func() bool {
			reading := r.Reading("pod-late", time.Now())
			n, known := reading.Calls()
			if known && n == 0 && reading.At().After(joined) {
				t.Fatalf("a zero of after it joined, %s", reading.At().Sub(joined))
			}
			return known && n == 1
		})
		if most, _ := lk.counted(); most > 300 {
			t.Errorf("%d requests within a minute", most)
		}
	})
}

// TestSlowLink has many rooms on a slow connection. Everything known stays known, even if
// one request in a hundred fails; the guard reads every room again, and knows a zero after a
// mark.
func TestSlowLink(t *testing.T) {
	cases := map[string]struct {
		settings func(*Config)
		rooms    int
		latency  time.Duration
		fails    int // one request in this many; 0 means none
		known    time.Duration
	}{
		"Adapter": {settings: asAdapter, rooms: 5_000, latency: 200 * time.Millisecond, fails: 100, known: 100 * time.Second},
		"Guard":   {settings: asGuard, rooms: 1_000, latency: 250 * time.Millisecond, known: 40 * time.Second},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			lk := withRooms(tc.rooms)
			asked := 0
			lk.break_ = func(w http.ResponseWriter) bool {
				time.Sleep(tc.latency)
				lk.mu.Lock()
				defer lk.mu.Unlock()
				asked++
				fails := tc.fails > 0 && asked%tc.fails == 0
				if fails {
					http.Error(w, "cut", http.StatusBadGateway)
				}
				return fails
			}
			inNoTime(t, lk, tc.settings, func(t *testing.T, r *Reader) {
				began := time.Now()
				soon(t, tc.known, "all rooms are known", allRead(r, tc.rooms))
				t.Logf("all rooms are known after %s", time.Since(began))
				some := func() bool { return allRead(r, 50)() && reads(r, "idle", 0)() }
				throughout(t, time.Minute, "all rooms are known", some)
				marked := time.Now()
				soon(t, 2*time.Minute, "a zero of after the mark is known", func() bool {
					return some() && r.Reading("idle", time.Now()).At().After(marked)
				})
				t.Logf("a zero after the mark takes %s", time.Since(marked))
			})
		})
	}
}

// TestRequestsOfCalls begins and ends calls, with LiveKit's events about them. A room is
// read once for each of the two, and again if the list of rooms arrives in between: besides
// lists, and the sixteenth part that each sweep reads again, a change costs 1.2 requests at
// most.
func TestRequestsOfCalls(t *testing.T) {
	const (
		calls = 1_000
		every = 500 * time.Millisecond
		long  = 2 * time.Minute
	)
	lk := newFakeLiveKit()
	inNoTime(t, lk, asAdapter, func(t *testing.T, r *Reader) {
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				time.Sleep(time.Duration(i) * every)
				play(lk, r, i, long, true)
			})
		}
		all.Wait()
		time.Sleep(time.Minute)
		reads, lists := lk.requests.Load(), lk.lists.Load()
		reads -= lists
		// A room for each call in progress, some 245.
		again := lists * int64(long/every) / rarest
		a := float64(reads-again) / (2 * calls)
		t.Logf("%d changes: %d lists of rooms, %d reads of a room, %d of them in turn: %.2f a change", 2*calls, lists, reads, again, a)
		if a > 1.2 {
			t.Errorf("a change costs %.2f requests", a)
		}
	})
}

// TestRoomsOfACloudProject has as many rooms as an adapter can follow with 300 requests a
// minute, its part of the 1,000 that LiveKit Cloud allows a project. Every room is read once
// at the start, evenly at three quarters of that rate. From then on all are known, while
// calls begin and end: with webhooks a change costs a read; without them the list of rooms,
// 4 or 5 times a minute, shows which rooms have changed, and each change is noticed in time.
func TestRoomsOfACloudProject(t *testing.T) {
	const limit, watched, calls = 300, 50, 400
	cases := map[string]struct {
		rooms    int
		webhooks bool
		every    time.Duration // between two calls that begin
		served   time.Duration // the longest from an agent's joining to the number
	}{
		"Webhooks":   {rooms: 2_000, webhooks: true, every: time.Second, served: time.Second},
		"NoWebhooks": {rooms: 500, every: 2 * time.Second, served: 20 * time.Second},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			lk := withRooms(tc.rooms)
			lk.limit = 1_000
			settings := func(c *Config) { asAdapter(c); c.RequestsPerMinute = limit }
			inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
				began := time.Now()
				soon(t, time.Duration(tc.rooms)*time.Minute/(limit*3/4), "all rooms are known", allRead(r, tc.rooms))
				t.Logf("all rooms are known after %s", time.Since(began))
				var all sync.WaitGroup
				var mu sync.Mutex
				var worst time.Duration
				for i := range calls {
					all.Go(func() {
						time.Sleep(time.Duration(i) * tc.every)
						play(lk, r, tc.rooms+i, 2*time.Minute, tc.webhooks)
					})
					all.Go(func() {
						time.Sleep(time.Duration(i)*tc.every + 600*time.Millisecond) // play's agent joins then
						joined := time.Now()
						for !reads(r, podOf(tc.rooms+i), 1)() && time.Since(joined) < time.Minute {
							time.Sleep(100 * time.Millisecond)
						}
						mu.Lock()
						defer mu.Unlock()
						worst = max(worst, time.Since(joined))
					})
				}
				throughout(t, calls*tc.every+2*time.Minute, "all rooms are known", func() bool { return allRead(r, watched)() && reads(r, "idle", 0)() })
				all.Wait()
				most, refused := lk.counted()
				t.Logf("an agent is counted after %s at most; %d requests in a minute at most", worst, most)
				if worst > tc.served || most > limit || refused > 0 {
					t.Errorf("the slowest took %s of %s; %d requests in a minute of %d, %d refused", worst, tc.served, most, limit, refused)
				}
			})
		})
	}
}

// play is a call, with LiveKit's webhooks about it if there are any.
func play(lk *fakeLiveKit, r *Reader, i int, long time.Duration, webhooks bool) {
	room, agent := fmt.Sprint("call-", i), agentOf(fmt.Sprint("PA_a", i), string(podOf(i)))[0]
	agent.IsPublisher = false
	caller := &protocol.ParticipantInfo{Sid: fmt.Sprint("PA_c", i), Identity: "caller", IsPublisher: true}
	is := func(after time.Duration, in ...*protocol.ParticipantInfo) {
		time.Sleep(after)
		lk.set(func() { lk.rooms[room] = in })
	}
	tell := func(name, sid string, agent bool) {
		if webhooks {
			r.Heed(Event{Name: name, Room: room, Participant: sid, Agent: agent})
		}
	}
	is(0)
	tell("room_started", "", false)
	is(100*time.Millisecond, caller)
	tell("participant_joined", caller.Sid, false)
	tell("track_published", caller.Sid, false)
	is(500*time.Millisecond, caller, agent)
	tell("participant_joined", agent.Sid, true)
	speaks := proto.CloneOf(agent)
	speaks.IsPublisher = true
	is(time.Second, caller, speaks)
	tell("track_published", agent.Sid, true)
	is(long, speaks)
	tell("participant_left", caller.Sid, false)
	is(500 * time.Millisecond)
	tell("participant_left", agent.Sid, true)
	time.Sleep(100 * time.Millisecond)
	lk.set(func() { delete(lk.rooms, room) })
	tell("room_finished", "", false)
}

// TestManyEvents has 2,000 webhook events a second, of agents that leave and join 1,000
// rooms, besides 1,000 others. Each change is served at once, none is lost, and sweeps
// continue.
func TestManyEvents(t *testing.T) {
	const (
		rooms, calls = 2_000, 1_000
		tick, each   = 10 * time.Millisecond, 20
		ticks        = 150
		served       = 250 * time.Millisecond
	)
	lk := withRooms(rooms)
	lk.break_ = func(http.ResponseWriter) bool { time.Sleep(3 * time.Millisecond); return false }
	changed := make(chan types.UID, each*ticks)
	settings := func(c *Config) {
		asAdapter(c)
		c.Resync, c.MaxStaleness = time.Second, 3*time.Second
		c.OnChange = func(pods []types.UID) {
			for _, pod := range pods {
				select {
				case changed <- pod:
				default: // of the sweep at the start
				}
			}
		}
	}
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		soon(t, 10*time.Second, "all rooms are known", allRead(r, rooms))
		for len(changed) > 0 {
			<-changed
		}
		there, due, worst, n := map[int]bool{}, map[types.UID]time.Time{}, time.Duration(0), 0
		collect := func() {
			for len(changed) > 0 {
				pod := <-changed
				if told, ok := due[pod]; ok {
					worst = max(worst, time.Since(told))
					delete(due, pod)
					n++
				}
			}
		}
		for i := range ticks {
			for j := range each {
				room := (i*each + j) % calls
				name, sid := fmt.Sprint("r", room), fmt.Sprint("PA_", room)
				event := Event{Name: "participant_left", Room: name, Participant: sid, Agent: true}
				lk.set(func() {
					if there[room] {
						event.Name, event.Participant = "participant_joined", fmt.Sprint("PA_", room, "_", i)
						lk.rooms[name] = agentOf(event.Participant, string(podOf(room)))
					} else {
						event.Participant = lk.rooms[name][0].Sid
						lk.rooms[name] = nil
					}
				})
				there[room] = !there[room]
				due[podOf(room)] = time.Now()
				r.Heed(event)
			}
			time.Sleep(tick)
			collect()
			if err := r.Fresh(time.Now()); err != nil {
				t.Fatalf("after %d events: %v", (i+1)*each, err)
			}
		}
		time.Sleep(time.Second)
		collect()
		t.Logf("%d events, the slowest was served after %s", ticks*each, worst)
		if n != ticks*each || worst > served {
			t.Errorf("of %d events %d were served, the slowest after %s; want all within %s", ticks*each, n, worst, served)
		}
	})
}

// TestLimitTooLow: if rooms change faster than the limit lets them be read, the project is
// unknown, and the reason says what to set.
func TestLimitTooLow(t *testing.T) {
	lk := withRooms(500)
	settings := func(c *Config) { asAdapter(c); c.RequestsPerMinute = 12 }
	inNoTime(t, lk, settings, func(t *testing.T, r *Reader) {
		time.Sleep(5 * time.Minute)
		why := r.Reading("idle", time.Now()).Reason()
		if !strings.Contains(why, "has not been read yet") || !strings.Contains(why, "rooms wait for the 12 requests a minute of this replica; raise --livekit-requests-per-minute") {
			t.Errorf("the reason is: %s", why)
		}
	})
}

// TestManyAgents has more agents, in one room, than a namespace's project may have. The
// administrator's own project is known in every sweep; a namespace's room cannot be read.
func TestManyAgents(t *testing.T) {
	const agents = maxItems + 2 // one of them leaves
	lk := newFakeLiveKit()
	for i := range agents {
		lk.rooms["r"] = append(lk.rooms["r"], agentOf(fmt.Sprint("PA_", i), string(podOf(i)))...)
	}
	own := func(c *Config) { asAdapter(c); c.Resync, c.Hints = time.Minute, false }
	inNoTime(t, lk, own, func(t *testing.T, r *Reader) {
		soon(t, time.Minute, "all are read", allRead(r, agents))
		lk.set(func() { lk.rooms["r"] = lk.rooms["r"][:agents-1] })
		soon(t, 5*time.Minute, "the second look reads that one has left", reads(r, podOf(agents-1), 0))
		if !reads(r, podOf(0), 1)() || r.Unread(time.Now()) != 0 {
			t.Error("the others are not known any more")
		}
	})
	tenants := func(c *Config) { own(c); c.Project = "team/livekit" }
	inNoTime(t, lk, tenants, func(t *testing.T, r *Reader) {
		time.Sleep(2 * time.Minute)
		r.mu.RLock()
		_, _, err := r.roll.failing("r")
		r.mu.RUnlock()
		if n := r.Unread(time.Now()); n != 1 || err == nil || !strings.Contains(err.Error(), "more than 25000 rooms or participants") {
			t.Errorf("of a namespace's project with %d agents in a room %d rooms cannot be read: %v", agents, n, err)
		}
	})
}

// BenchmarkManyRooms starts a reader of this many rooms, each with an agent of one of 5,000
// pods, and reports how long it takes until all are known, without latency, and how much
// memory it then takes.
func BenchmarkManyRooms(b *testing.B) {
	const pods = 5_000
	for _, rooms := range []int{1_000, 5_000, 50_000, 100_000} {
		lk := newFakeLiveKit()
		for i := range rooms {
			lk.rooms[fmt.Sprintf("call-%07d", i)] = agentOf(fmt.Sprintf("PA_%012d", i), string(podOf(i%pods)))
		}
		b.Run(fmt.Sprint(rooms), func(b *testing.B) {
			report := trial.CPU(b)
			for b.Loop() {
				before := heap()
				ctx, stop := context.WithCancel(b.Context())
				r := NewReader(Config{
					Project: call.DefaultProject, Transport: direct{lk}, Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
					Settings: Settings{Resync: 15 * time.Second, MaxStaleness: 45 * time.Second, Timeout: 5 * time.Second, Concurrency: 16, Hints: true},
					Credentials: func(context.Context) (livekit.Credentials, error) {
						return livekit.Credentials{URL: "http://livekit.example", APIKey: "key", APISecret: "secret"}, nil
					},
				})
				done := make(chan error)
				began := time.Now()
				go func() { done <- r.Run(ctx) }()
				for r.Fresh(time.Now()) != nil {
					time.Sleep(10 * time.Millisecond)
				}
				b.ReportMetric(time.Since(began).Seconds(), "s-until-known")
				b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
				stop()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			report()
		})
	}
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
