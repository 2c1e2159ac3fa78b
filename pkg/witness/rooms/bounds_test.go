// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/test/trial"
)

func crowded(n int, prefix string) []livekit.Agent {
	agents := make([]livekit.Agent, n)
	for i := range agents {
		agents[i] = livekit.Agent{SID: fmt.Sprint(prefix, i), Pod: types.UID(fmt.Sprint("pod-", i))}
	}
	return agents
}

// TestRoomOfManyAgents: the time for a room grows linearly with its participants, not
// quadratically, because its project is locked meanwhile.
func TestRoomOfManyAgents(t *testing.T) {
	took := func(n int) time.Duration {
		least := time.Hour
		first, second := crowded(n, "PA_"), crowded(n, "PB_")
		for range 3 {
			b := newBook(testConfirm, testDoubt)
			least = min(least, trial.Spent(t, func() {
				for i, agents := range [][]livekit.Agent{first, first, second, nil, first, nil} {
					b.apply("r", agents, noonAnd(i), false, func(string) bool { return false })
				}
			}))
		}
		return least
	}
	took(1000)
	few, many := took(1500), took(24_000)
	if many > 5*16*few+100*time.Millisecond {
		t.Errorf("a room of 1,500 takes %s, one of 24,000 %s; sixteen times as many should take some sixteen times as long", few, many)
	}
	t.Logf("1,500 agents: %s, 24,000: %s", few, many)
}

func noonAnd(seconds int) time.Time { return second(float64(seconds)) }

// TestWhatIsKeptIsCharged: a hostile server's rooms take no more than its namespace's
// limit; then its project is unknown, with the reason, and others are not affected.
func TestWhatIsKeptIsCharged(t *testing.T) {
	kept := newKept()
	reader := func(project call.Project) *Reader {
		return NewReader(Config{Project: project, Kept: kept, Settings: Settings{Resync: time.Minute}})
	}
	hostile, again, friend := reader("hostile/a"), reader("hostile/b"), reader("friend/a")
	neighbour, own := reader("team/livekit"), reader(call.DefaultProject)
	long := strings.Repeat("n", 1000)
	entered := func(r *Reader, rooms int) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		var list []livekit.RoomInfo
		more := int64(0)
		for i := range rooms {
			list = append(list, livekit.RoomInfo{Name: fmt.Sprint(long, i)})
			more += placeSize(list[i])
		}
		if err := r.keep(more); err != nil {
			return err
		}
		r.roll.list(list, time.Now(), func(string) bool { return false })
		return r.keep(0)
	}
	for _, tc := range []struct {
		reason string
		r      *Reader
		rooms  int
		fits   bool
	}{
		{"This is within its share.", hostile, 8000, true},
		{"Another project of the same namespace has what is left of that.", again, 8000, false},
		{"So it has the rest.", again, 2000, true},
		{"Its friend in another namespace has as much.", friend, 10_000, true},
		{"A neighbour has its own all the same.", neighbour, 500, true},
		{"The administrator takes what is free.", own, 25_000, true},
	} {
		if err := entered(tc.r, tc.rooms); (err == nil) != tc.fits || err != nil && !strings.Contains(err.Error(), "more memory than its namespace may have") {
			t.Errorf("%s %d rooms: %v", tc.reason, tc.rooms, err)
		}
	}
	for _, r := range []*Reader{hostile, again, friend, neighbour, own} {
		r.keepNothing()
	}
	if kept.all != 0 || len(kept.taken) != 0 {
		t.Errorf("%d bytes of %v are still charged", kept.all, kept.taken)
	}
}

// TestSeatsTakeWhatIsCharged compares the charge for a seat and a room with the memory
// they take.
func TestSeatsTakeWhatIsCharged(t *testing.T) {
	const rooms = 5000
	memory := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := memory()
	b, r := newBook(testConfirm, testDoubt), newRoll(true)
	for i := range rooms {
		room := fmt.Sprintf("call-%d-%s", i, strings.Repeat("x", 20))
		r.list([]livekit.RoomInfo{{Name: room, SID: "RM_" + room[:12]}}, noonAnd(i), func(string) bool { return true })
		b.apply(room, []livekit.Agent{{SID: fmt.Sprint("PA_", i), Identity: strings.Repeat("i", 64<<10), Pod: types.UID(fmt.Sprintf("%036d", i))}}, noonAnd(i), false, nil)
	}
	took := memory() - before
	if charged := b.size + r.size; took > charged || charged > 4*took {
		t.Errorf("%d rooms with a seat take %d bytes each, and are charged %d", rooms, took/rooms, charged/rooms)
	}
	runtime.KeepAlive(b)
	runtime.KeepAlive(r)
}

// TestPodsThatComeAndGoAreCharged: a server that names other pods in each answer takes no
// more memory for earlier ones.
func TestPodsThatComeAndGoAreCharged(t *testing.T) {
	b := newBook(testConfirm, testDoubt)
	const agents = 1000
	for i := range 20 {
		list := crowded(agents, fmt.Sprint("PA_", i, "_"))
		for j := range list {
			list[j].Pod += types.UID(fmt.Sprint("-", i))
		}
		b.apply("r", list, noonAnd(i), false, func(string) bool { return true })
	}
	if len(b.pods) != 20*agents || b.size < 20*agents*holdingSize("pod") {
		t.Errorf("%d pods are kept and %d bytes charged", len(b.pods), b.size)
	}
	b.apply("r", nil, noonAnd(30), false, func(string) bool { return true })
	b.sweptSince(noonAnd(40))
	if len(b.pods) != 0 || b.size != 0 {
		t.Errorf("%d pods are kept and %d bytes charged after all are gone", len(b.pods), b.size)
	}
}

// TestNamesOfWebhooksAreBounded: anyone with a key of a project may name any room, but
// can fill neither the queue nor the memory.
func TestNamesOfWebhooksAreBounded(t *testing.T) {
	r := NewReader(Config{Project: "team/livekit", Settings: Settings{Resync: time.Minute}})
	defer r.queue.ShutDown()
	for i := range 30_000 {
		r.Heed(Event{Name: "participant_left", Room: fmt.Sprint(i, strings.Repeat("n", maxHinted-10)), Participant: fmt.Sprint("PA_", i), Agent: true})
	}
	if r.queue.Len() > maxQueued || r.hints.size > maxHintBytes || r.hints.n > maxHints || r.hints.n == 0 {
		t.Errorf("%d rooms are queued, %d words take %d bytes", r.queue.Len(), r.hints.n, r.hints.size)
	}
	r.hints.dropOld(time.Now().Add(time.Minute))
	if r.hints.size != 0 || r.hints.n != 0 || len(r.hints.of) != 0 {
		t.Errorf("%d old words take %d bytes still", r.hints.n, r.hints.size)
	}
}

// TestPastItsShareAProjectIsUnknown: a room that exceeds the limit may have anybody's
// agents, so the sweep has no result, however many others were read.
func TestPastItsShareAProjectIsUnknown(t *testing.T) {
	s := &sweeping{}
	for range 1000 {
		s.enter(nil)
	}
	if err := s.over(); err != nil {
		t.Errorf("all rooms were read: %v", err)
	}
	r := NewReader(Config{Project: "team/livekit", Kept: newShares(0, 0, 0, 0)})
	s.enter(r.keep(1))
	if err := s.over(); err == nil || !strings.Contains(err.Error(), "more memory than its namespace may have") {
		t.Errorf("a room could not be kept: %v", err)
	}
}
