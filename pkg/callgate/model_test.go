// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/callguard/callguard/pkg/livekit"
)

// traits describe the pod of a world. The durations of processes are those of the SDKs:
// livekit-agents 1.7 (Python) and @livekit/agents 1.9 (Node).
type traits struct {
	python  bool // reports launches and ends, and names its jobs when it registers again
	key     bool // the gate may look into rooms
	page    bool // the agent reports its number
	warm    bool // it has processes ready
	redis   bool // LiveKit's rooms survive its restart
	journal bool // the gate's jobs survive its restart
}

// simJob is one call, from its offer to the end of its process.
type simJob struct {
	id      string
	session uint64 // the websocket on which LiveKit knows it; LiveKit does not know it on another

	caller   bool // waits or talks
	open     bool // there is a room
	closed   time.Time
	inRoom   bool // the agent is in it
	listed   bool // LiveKit lists the agent
	accepted bool // LiveKit is about to assign it
	waiting  bool // assigned, and its process may come
	launched bool
	alive    bool      // its process
	forsaken bool      // its room had closed long before it was launched, so there is no caller
	left     time.Time // when the agent left its room
	never    bool      // its process does not end
}

// world is one pod with a real book and its looks, between an agent and a LiveKit that are
// simulated, in simulated time.
type world struct {
	traits

	rng    *rand.Rand
	now    time.Time
	begun  time.Time
	queue  events
	serial int

	mutant  mutant
	counts  *Metrics
	book    *book
	ends    *ends
	up      bool // the gate
	livekit bool // LiveKit
	blink   time.Time

	session   uint64
	connected bool
	outbox    []func()
	jobs      []*simJob
	stopped   bool      // the order was given
	restarts  int       // of the gate
	low       time.Time // since when the count is below the truth
	quiet     time.Time // since when nothing has happened
	story     []string
	failure   string
}

// mutant breaks a rule of evidence on purpose.
type mutant struct {
	limits func(*limits)
	book   func(*book) // before each round
	// What the book is told wrongly.
	oldNumbers    bool // a number counts as of its answer instead of its request
	blindIsAbsent bool // a failed look counts as one that finds nobody
	leaveIsEnd    bool // a job ends when LiveKit reports that its agent left
	lateJournal   bool // the assignment is written down after the agent heard of it
	noWords       bool // the worker's job reports are ignored
	noNames       bool // the job names at a new registration are ignored
}

type event struct {
	at time.Time
	n  int
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(e[i].at.Compare(e[j].at), cmp.Compare(e[i].n, e[j].n)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

const (
	// lowFor is how long the count may be below the truth: the longest pause between two
	// requests for the number, and the time of an answer.
	lowFor = 4 * time.Second
	// wellAfter is when nothing counts any more after the last process has ended: the longest
	// work after a call and the longest doubt, and for a job that never started its limit.
	wellAfter = 14 * time.Minute
)

func newWorld(seed uint64, m mutant, counts *Metrics) *world {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := &world{
		traits: traits{
			python: rng.IntN(2) == 0, key: rng.IntN(3) > 0, page: rng.IntN(12) > 0,
			warm: rng.IntN(2) == 0, redis: rng.IntN(3) == 0, journal: rng.IntN(4) > 0,
		},
		rng: rng, mutant: m, counts: counts,
		now: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), livekit: true,
	}
	w.begun = w.now
	w.startGate(legacy{}, true)
	w.connect()
	calls := 1 + rng.IntN(8)
	for range calls {
		w.after(w.upTo(4*time.Minute), w.call)
	}
	if rng.IntN(3) == 0 { // many at once
		at := w.upTo(3 * time.Minute)
		for range 3 + rng.IntN(6) {
			w.after(at+w.upTo(time.Second), w.call)
		}
	}
	w.after(w.upTo(6*time.Minute), w.order)
	w.sometimes(2, w.cut)
	w.sometimes(3, w.restartLiveKit)
	w.sometimes(3, w.killGate)
	w.sometimes(3, w.forgetful)
	return w
}

// sometimes makes something happen in one of n worlds, once or twice.
func (w *world) sometimes(n int, do func()) {
	if w.rng.IntN(n) > 0 {
		return
	}
	for range 1 + w.rng.IntN(2) {
		w.after(w.upTo(8*time.Minute), do)
	}
}

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d)) + 1)
}
func (w *world) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }
func (w *world) chance(percent int) bool                  { return w.rng.IntN(100) < percent }

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.queue, event{w.now.Add(d), w.serial, do})
}

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%8.3f  ", w.now.Sub(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// advance simulates the next d.
func (w *world) advance(d time.Duration) {
	until := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(until) && w.failure == "" {
		e := heap.Pop(&w.queue).(event)
		if e.at.After(w.now) {
			w.now = e.at
		}
		e.do()
		w.quiet = w.now
		w.check()
	}
	if until.After(w.now) {
		w.now = until
	}
}

// run runs the world to its end and returns what went wrong.
func (w *world) run() string {
	ctx := context.Background()
	pause := time.Duration(0)
	for w.failure == "" {
		quiet := w.now.Sub(w.quiet)
		if w.failure = w.done(quiet); w.failure != "" || len(w.queue) == 0 && quiet > wellAfter {
			break
		}
		if w.up {
			if w.mutant.book != nil {
				w.mutant.book(w.book)
			}
			w.ends.round(ctx)
			w.check()
			pause = w.book.pause()
		} else {
			pause = 100 * time.Millisecond
		}
		if quiet > 5*time.Second { // the machine is busy, or only time passes
			pause = min(pause+quiet/8, 12*time.Second)
		}
		if len(w.queue) > 0 { // an end wakes the looks
			pause = min(pause, max(w.queue[0].at.Sub(w.now), time.Millisecond))
		}
		w.advance(pause)
	}
	if w.failure == "" {
		return ""
	}
	return fmt.Sprintf("%s\n%+v\n%s", w.failure, w.traits, strings.Join(w.story, "\n"))
}

// done returns what should not count any more.
func (w *world) done(quiet time.Duration) string {
	if !w.up || len(w.queue) > 0 || quiet <= wellAfter {
		return ""
	}
	// If neither number nor room nor worker reports it, only LiveKit's message ends a job,
	// and that is not sent after a reconnect. Nor is it for a process that never ends, if
	// rooms cannot be read, or Redis remembers its agent. A gate without a journal knows such
	// a process only by number.
	if !w.page || !w.journal && w.restarts > 0 || slices.ContainsFunc(w.jobs, func(j *simJob) bool { return j.never && (!w.key || j.listed) }) {
		return ""
	}
	if a := w.book.answer(w.now); a.Calls > 0 {
		return fmt.Sprintf("%d calls count %s after the last end: %v", a.Calls, quiet, a.Jobs)
	}
	return ""
}

// truth counts the actual calls: jobs with a process, and those for which one may start
// while there is a caller.
func (w *world) truth() (n int) {
	for _, j := range w.jobs {
		working := j.alive
		if working && !j.inRoom && !j.left.IsZero() {
			// Work after a call shows only in the number, and takes 5 minutes at most.
			working = w.page && (!j.never || w.now.Sub(j.left) <= 5*time.Minute)
		}
		if j.accepted || working && !j.forsaken || j.waiting && !w.isForsaken(j) {
			n++
		}
	}
	return n
}

// isForsaken reports whether a job's room has closed, including the time for which a list
// may be wrong about that.
func (w *world) isForsaken(j *simJob) bool {
	return !j.open && !j.caller && !j.closed.IsZero() && w.now.Sub(j.closed) > 25*time.Second
}

// check compares the gate's answers with the truth.
func (w *world) check() {
	if !w.up || w.failure != "" {
		return
	}
	a, truth := w.book.answer(w.now), w.truth()
	if a.Drained && truth > 0 {
		w.tell("drained")
		w.failure = fmt.Sprintf("drained, and %d calls are there or may come", truth)
	}
	// Without a journal a gate does not know what was assigned before its start, and does not
	// report zero.
	blank := !w.journal && w.restarts > 0 && w.now.Sub(w.book.began) < w.book.limits.launch && a.Calls > 0
	switch {
	case !a.Known || blank || a.Calls >= truth:
		w.low = time.Time{}
	case w.low.IsZero():
		w.low = w.now
	case w.now.Sub(w.low) > lowFor:
		w.tell("%d calls counted", a.Calls)
		w.failure = fmt.Sprintf("%d calls are counted for %s, and there are %d", a.Calls, w.now.Sub(w.low), truth)
	}
}

// startGate starts a gate with what an earlier one left behind.
func (w *world) startGate(left legacy, whole bool) {
	w.book = newBook("pod", DefaultLaunchLimit, w.now, w.counts)
	if w.mutant.limits != nil {
		w.mutant.limits(&w.book.limits)
	}
	w.book.restore(left, whole)
	w.book.drain(map[bool]string{true: "drain", false: ""}[w.stopped])
	w.ends = &ends{
		book: w.book, now: func() time.Time { return w.now },
		workers: []func(context.Context) (int, error){w.number},
		sight:   sightings{book: w.book, log: slog.New(slog.DiscardHandler), told: map[string]bool{}},
	}
	if w.key {
		w.ends.rooms = w
	}
	w.up = true
}

var errGone = errors.New("connection refused")

// number is the agent's page. Its answer is as old as the request.
func (w *world) number(context.Context) (int, error) {
	if !w.page {
		return 0, errGone
	}
	n := 0
	for _, j := range w.jobs {
		if j.alive {
			n++
		}
	}
	book := w.book
	took := w.upTo(20 * time.Millisecond)
	if w.chance(2) {
		took = w.upTo(1500 * time.Millisecond)
	}
	w.advance(took)
	if w.book != book {
		return 0, errGone
	}
	if w.mutant.oldNumbers {
		w.book.number.moved = time.Time{}
	}
	return n, nil
}

// Room is LiveKit's answer about a room.
func (w *world) Room(_ context.Context, name string) (livekit.Room, error) {
	w.advance(w.upTo(5 * time.Millisecond))
	i := 0
	for ; "room-"+w.jobs[i].id != name; i++ {
	}
	j := w.jobs[i]
	if !w.livekit {
		if w.mutant.blindIsAbsent {
			return livekit.Room{}, nil
		}
		return livekit.Room{}, errGone
	}
	if w.now.Before(w.blink) {
		return livekit.Room{Open: j.open && w.chance(50)}, nil
	}
	room := livekit.Room{Open: j.open || j.listed}
	if j.listed {
		room.Agents = []livekit.Agent{{Identity: "agent", Pod: "pod"}}
	}
	return room, nil
}

// call adds a caller, and LiveKit offers the job.
func (w *world) call() {
	j := &simJob{id: fmt.Sprint(len(w.jobs)), caller: true, open: true}
	w.jobs = append(w.jobs, j)
	w.tell("call %s", j.id)
	w.after(w.between(2*time.Second, 5*time.Minute), func() { w.hangUp(j) })
	if !w.connected || !w.up || !w.livekit || !w.book.offer(w.session, j.id, "room-"+j.id, w.now) {
		return
	}
	session := w.session
	answer := w.upTo(200 * time.Millisecond)
	if w.chance(5) {
		answer = w.between(time.Second, 12*time.Second)
	}
	offered := w.now
	w.after(answer, func() {
		if session != w.session || !w.connected || !w.book.accept(session, j.id, "agent", w.now) {
			return
		}
		if w.now.Sub(offered) > 3*time.Second { // LiveKit has given up
			return
		}
		j.accepted = true
		w.after(w.upTo(300*time.Millisecond), func() {
			if j.accepted {
				j.accepted = false
				w.assign(j, session)
			}
		})
	})
}

func (w *world) assign(j *simJob, session uint64) {
	if !w.mutant.lateJournal || !w.chance(30) {
		w.book.assign(session, j.id, "room-"+j.id, "agent", w.now)
	} else {
		book := w.book
		w.after(w.upTo(50*time.Millisecond), func() { book.assign(session, j.id, "room-"+j.id, "agent", w.now) })
		w.after(w.upTo(50*time.Millisecond), w.killGate)
	}
	j.session, j.waiting = session, true
	takes := w.between(5*time.Millisecond, 100*time.Millisecond)
	switch {
	case !w.warm || w.chance(20):
		takes = w.between(time.Second, 40*time.Second)
	case w.chance(3): // several attempts, behind other jobs
		takes = w.between(40*time.Second, 280*time.Second)
	}
	w.tell("assigned %s: a process in %s", j.id, takes)
	if w.chance(4) { // all attempts fail, and nothing reports that
		w.after(takes, func() { j.waiting = false })
		return
	}
	w.after(takes, func() { w.launch(j) })
}

func (w *world) launch(j *simJob) {
	j.forsaken = w.isForsaken(j)
	j.waiting, j.launched, j.alive = false, true, true
	w.tell("launched %s", j.id)
	w.report(func(b *book) { b.launched(w.session, j.id, w.now) })
	if w.chance(4) {
		w.after(w.upTo(30*time.Second), func() { w.crash(j) })
	}
	joins := w.between(50*time.Millisecond, time.Second)
	if w.chance(10) {
		joins = w.between(time.Second, 25*time.Second)
	}
	w.after(joins, func() { w.join(j) })
}

// join makes the agent join its room, which creates the room if it does not exist.
func (w *world) join(j *simJob) {
	if !j.alive || j.inRoom || !j.left.IsZero() {
		return
	}
	if !w.livekit {
		w.after(w.between(time.Second, 5*time.Second), func() { w.join(j) })
		return
	}
	j.inRoom, j.listed, j.open = true, true, true
	if !j.caller {
		w.after(w.upTo(20*time.Second), func() { w.leave(j) })
	}
}

func (w *world) hangUp(j *simJob) {
	j.caller = false
	switch {
	case j.inRoom:
		w.after(w.upTo(20*time.Second), func() { w.leave(j) })
	case !j.alive:
		w.after(20*time.Second, func() { w.close(j) })
	}
}

func (w *world) close(j *simJob) {
	if j.open && !j.caller && !j.inRoom {
		j.open, j.closed = false, w.now
	}
}

// leave makes the agent leave its room. LiveKit reports that on the websocket of the job,
// and its process keeps working for a while.
func (w *world) leave(j *simJob) {
	if !j.inRoom {
		return
	}
	w.tell("left %s", j.id)
	j.inRoom, j.left = false, w.now
	if w.livekit {
		w.unlist(j)
	} // else only Redis remembers it, forever
	work := w.between(10*time.Millisecond, 2*time.Second)
	switch {
	case w.chance(10):
		work = w.between(time.Second, 290*time.Second)
	case w.python && w.chance(2): // Node kills it after a minute
		j.never = true
		if w.chance(50) { // it is killed long after
			w.after(w.between(6*time.Minute, 12*time.Minute), func() { w.exit(j, "killed") })
		}
		return
	}
	w.after(work, func() { w.exit(j, "ended") })
}

// unlist makes LiveKit notice that the agent is gone.
func (w *world) unlist(j *simJob) {
	j.listed = false
	if !j.caller {
		j.open, j.closed = false, w.now
	}
	if j.session == w.session && w.connected && w.livekit {
		if w.mutant.leaveIsEnd {
			w.book.end(w.session, j.id, w.now)
		} else {
			w.book.leave(j.id, w.now)
		}
	}
}

func (w *world) exit(j *simJob, how string) {
	if !j.alive {
		return
	}
	w.tell("%s %s", how, j.id)
	j.alive = false
	w.report(func(b *book) { b.end(w.session, j.id, w.now) })
}

// crash ends a process in mid-call. LiveKit notices when the agent's transport fails.
func (w *world) crash(j *simJob) {
	if !j.alive || j.never {
		return
	}
	was := j.inRoom
	j.inRoom, j.left = false, w.now
	w.exit(j, "crashed")
	if was {
		w.after(w.between(15*time.Second, 20*time.Second), func() {
			if w.livekit && j.listed && !j.inRoom {
				w.unlist(j)
			}
		})
	}
}

// report makes a Python worker report something, at once or when it is registered again.
func (w *world) report(say func(*book)) {
	if !w.python || w.mutant.noWords {
		return
	}
	if w.connected && w.up {
		say(w.book)
		return
	}
	w.outbox = append(w.outbox, func() { say(w.book) })
}

func (w *world) order() {
	w.tell("the order")
	w.stopped = true
	if w.up {
		w.book.drain("drain")
	}
}

// cut ends the worker's websocket. It comes back.
func (w *world) cut() {
	if !w.connected {
		return
	}
	w.tell("the websocket is cut")
	w.connected = false
	for _, j := range w.jobs {
		j.accepted = false // it cannot be assigned on another websocket
	}
	if w.up {
		w.book.lose(w.session)
	}
	w.after(w.between(300*time.Millisecond, 10*time.Second), w.connect)
}

func (w *world) connect() {
	if w.connected {
		return
	}
	if !w.livekit || !w.up {
		w.after(w.between(time.Second, 4*time.Second), w.connect)
		return
	}
	w.session++
	w.connected = true
	w.book.register(w.session)
	if w.python && !w.mutant.noNames {
		var ids []string
		for _, j := range w.jobs {
			if j.alive {
				ids = append(ids, j.id)
			}
		}
		if len(ids) > 0 {
			w.book.adopt(w.session, ids, w.now)
		}
	}
	for _, say := range w.outbox {
		say()
	}
	w.outbox = nil
	w.tell("registered")
}

// restartLiveKit kills LiveKit and starts it again. Without Redis its rooms are gone until
// callers and agents are back; with it, what it lists is as old as its death.
func (w *world) restartLiveKit() {
	if !w.livekit {
		return
	}
	w.tell("LiveKit is gone")
	w.livekit = false
	w.cut()
	w.after(w.between(2*time.Second, 20*time.Second), func() {
		w.tell("LiveKit is back")
		w.livekit = true
		for _, j := range w.jobs {
			if !w.redis {
				j.listed = false
			}
			if !j.open {
				continue
			}
			if !w.redis {
				j.open, j.closed = false, w.now
			}
			if j.caller = j.caller && w.chance(80); j.caller {
				w.after(w.between(500*time.Millisecond, 10*time.Second), func() {
					if j.caller && w.livekit {
						j.open = true
					}
				})
			}
			if !j.inRoom {
				continue
			}
			if w.chance(85) {
				j.inRoom = false
				w.after(w.between(time.Second, 12*time.Second), func() { w.join(j) })
			} else { // it gives up
				w.leave(j)
			}
		}
	})
}

// killGate kills the gate and has it restarted.
func (w *world) killGate() {
	if !w.up {
		return
	}
	w.tell("the gate is killed")
	left := legacy{workers: w.book.most, unlisted: w.book.number.unlisted}
	for _, j := range w.book.jobs {
		if !j.started.IsZero() {
			left.jobs = append(left.jobs, record{ID: j.id, Room: j.room, Agent: j.agent, Started: j.started, Launched: j.hasProcess()})
		}
	}
	w.cut()
	w.up = false
	w.restarts++
	w.low = time.Time{}
	w.after(w.between(200*time.Millisecond, 3*time.Second), func() {
		w.tell("the gate is back")
		if w.journal {
			w.startGate(left, true)
		} else {
			w.startGate(legacy{}, false)
		}
	})
}

// forgetful makes LiveKit's lists omit participants and rooms for a moment.
func (w *world) forgetful() {
	w.blink = w.now.Add(w.between(100*time.Millisecond, 1500*time.Millisecond))
}

func modelMetrics() *Metrics { return NewMetrics(prometheus.NewRegistry()) }
