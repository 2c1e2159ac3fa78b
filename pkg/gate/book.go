// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	witness "github.com/callguard/callguard/pkg/witness/gate"
)

const (
	// reserveFor is how long an offer may be without an answer, and an accepted
	// one without its job. LiveKit waits 10 s for the answer and assigns at once;
	// it cannot assign on another websocket than the one it asked on.
	reserveFor = 15 * time.Second
	// launchWithin is how long an assigned job may be missing from the agent's
	// own number: LiveKit Agents gives a process 10 s to start.
	launchWithin = 15 * time.Second
	// endingFor bounds the work after a call where the agent's number says that
	// it goes on: LiveKit Agents gives it 5 minutes. A process that never ends
	// does not hold the pod.
	endingFor = 6 * time.Minute
	// endingUnseen is the same where the agent does not tell its number.
	endingUnseen = 10 * time.Second
	// doubtFor is how long the agent's number must be lower than what runs,
	// before a job is taken for ended that nobody else said had ended.
	doubtFor = 3 * time.Second
	// absentFor is how long an agent must be missing from its room.
	absentFor = 2 * time.Second
	// lookEvery and lookLost are how often the room of a running job is looked at,
	// and that of one whose end LiveKit will not tell.
	lookEvery = time.Minute
	lookLost  = 5 * time.Second
	// blindFor and blindAtWork are how long looks into a job's room must have failed,
	// one and all, before what would otherwise wait for one goes on without. A look
	// that fails says nothing, and the next may say that the job lives, so it takes
	// another's word as well, and for as long. blindFor is for a job that the agent's
	// number has lacked all the while, or of which LiveKit said that it had left and no
	// number tells: it is longer than LiveKit is away when it is replaced. blindAtWork
	// is for a job that LiveKit said had left and that the number still has: the agent
	// is at work, in its room again perhaps, or its process never ends. Of a running
	// job of which neither says that it has ended, there is no such bound.
	blindFor    = 10 * time.Minute
	blindAtWork = time.Hour
)

// phase is how far a job is.
type phase string

const (
	offered  phase = "offered"  // the agent has not answered
	accepted phase = "accepted" // LiveKit has not assigned it
	running  phase = "running"  // the agent has it
	ending   phase = "ending"   // it has left its room
)

type job struct {
	id, room, agent string
	session         uint64 // the websocket it came on; 0 for one of an earlier gate
	phase           phase
	since           time.Time // of the phase
	started         time.Time // when it was assigned
	seen            bool      // the agent's own number has included it
	absent          time.Time // since when its room lacks it
	looked          time.Time // when its room was looked at last
	blind           time.Time // since when looks into its room have failed
}

// canBeLookedFor says whether a look into a room could find the job's agent.
func (j *job) canBeLookedFor() bool { return j.room != "" && j.agent != "" }

// unseenFor says whether all looks into the job's room have failed since a time,
// and that long.
func (j *job) unseenFor(d time.Duration, since, now time.Time) bool {
	return !j.blind.IsZero() && now.Sub(j.blind) >= d && now.Sub(since) >= d
}

// book knows the jobs of the pod, and whether offers are let in. All that is
// decided about a job is decided under its lock: once draining is set, no offer
// is accepted any more.
type book struct {
	mu       sync.Mutex
	pod      types.UID
	jobs     map[string]*job
	sessions map[uint64]bool // registered workers
	most     int             // sessions that were registered at once
	used     bool            // a worker has come, if only to be refused by LiveKit
	draining string
	began    time.Time

	// own is what the agents say of themselves: the number of their jobs.
	own struct {
		calls int
		at    time.Time // zero: never told
		err   error     // why the latest question has no answer
		since time.Time // since when it is lower than what runs
	}
	unlisted int // jobs that the number has and nobody can name
	zombies  int // processes that did not end and were given up, which the number has
	owed     int // other jobs that have ended here and may still be in the number
	// whole says that every job there may be went by: this gate is the pod's
	// first, or read what the one before it knew.
	whole bool

	journal *journal
	changed chan struct{} // a job may have ended
	counts  *Metrics
}

func newBook(pod types.UID, began time.Time, counts *Metrics) *book {
	return &book{
		pod: pod, began: began, counts: counts,
		jobs: map[string]*job{}, sessions: map[uint64]bool{},
		changed: make(chan struct{}, 1),
	}
}

// restore takes over what an earlier gate knew. whole says that there was no
// more to know.
func (b *book) restore(records []record, most int, whole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole, b.most, b.used = whole, max(b.most, most), b.used || most > 0 || len(records) > 0
	for _, r := range records {
		b.jobs[r.ID] = &job{id: r.ID, room: r.Room, agent: r.Agent, phase: running, since: r.Started, started: r.Started}
	}
}

// drain puts the order in force. It stays: what it is good for is that nothing
// comes after it.
func (b *book) drain(order string) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	news = b.draining == ""
	if order != "" {
		b.draining = order
	}
	return news && b.draining != ""
}

func (b *book) isDraining() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.draining != ""
}

// comes notes that a worker of the pod comes to this gate, and not past it.
func (b *book) comes() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = true
}

// register notes that a worker's websocket stands.
func (b *book) register(session uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[session], b.used = true, true
	if len(b.sessions) > b.most {
		b.most = len(b.sessions)
		b.journal.workers(b.most)
	}
}

// lose notes that a worker's websocket is gone: what was not assigned on it
// cannot be any more. Jobs go on.
func (b *book) lose(session uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, session)
	for id, j := range b.jobs {
		if j.session == session && (j.phase == offered || j.phase == accepted) {
			delete(b.jobs, id)
		}
	}
	b.wake()
}

// offer says whether the worker is to be asked. If not, the answer is no.
func (b *book) offer(session uint64, id, room string, now time.Time) (ask bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining != "" {
		b.counts.offers.WithLabelValues(offerRefused).Inc()
		return false
	}
	if b.jobs[id] == nil { // else it runs and is offered again
		b.jobs[id] = &job{id: id, room: room, session: session, phase: offered, since: now}
	}
	b.counts.offers.WithLabelValues(offerPassed).Inc()
	return true
}

// accept says whether the worker's yes is passed on. If not, it is a no: the
// order to drain came between the offer and the answer.
func (b *book) accept(session uint64, id, agent string, now time.Time) (pass bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[id]
	if b.draining != "" {
		if j != nil && j.phase == offered {
			delete(b.jobs, id)
		}
		b.counts.answers.WithLabelValues(answerOverruled).Inc()
		return false
	}
	if j == nil { // an answer that came late
		j = &job{id: id, phase: offered}
		b.jobs[id] = j
	}
	if j.phase == offered {
		j.session, j.phase, j.since, j.agent = session, accepted, now, agent
	}
	b.counts.answers.WithLabelValues(answerAccepted).Inc()
	return true
}

// decline notes the worker's no.
func (b *book) decline(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil && j.phase == offered {
		delete(b.jobs, id)
	}
	b.counts.answers.WithLabelValues(answerDeclined).Inc()
}

// assign notes that LiveKit gives the worker a job. It is written down before
// the worker hears of it.
func (b *book) assign(session uint64, id, room, agent string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[id]
	if j == nil {
		j = &job{id: id}
		b.jobs[id] = j
	}
	j.session, j.room, j.agent = session, cmp.Or(room, j.room), cmp.Or(agent, j.agent)
	j.phase, j.since, j.started = running, now, now
	b.counts.jobs.Inc()
	b.keepLocked(j)
}

// adopt takes over jobs that a worker says it runs.
func (b *book) adopt(session uint64, ids []string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		if j := b.jobs[id]; j == nil || j.phase == offered || j.phase == accepted {
			b.jobs[id] = &job{id: id, session: session, phase: running, since: now, started: now, seen: true}
			b.unlisted = max(0, b.unlisted-1)
			b.keepLocked(b.jobs[id])
		}
	}
}

// leave notes that LiveKit tells the worker to end a job: its agent has left the
// room, or has to.
func (b *book) leave(id string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil && j.phase == running {
		j.phase, j.since = ending, now
	}
	b.wake()
}

// end notes that the worker says a job has ended.
func (b *book) end(id string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil {
		b.owed++
		b.endLocked(j, endByWorker, now)
	}
	b.wake()
}

// launched notes that the worker says a job runs.
func (b *book) launched(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil {
		j.seen = true
	}
}

func (b *book) endLocked(j *job, by string, now time.Time) {
	delete(b.jobs, j.id)
	if j.phase == running || j.phase == ending {
		b.journal.drop(j.id)
		b.counts.ends.WithLabelValues(by).Inc()
		b.counts.duration.Observe(now.Sub(j.started).Seconds())
	}
}

// tell notes what the agents say is the number of their jobs, and ends what that
// shows to have ended. covered is how many workers were asked.
//
// The number alone names no job, so it is read with care. It may lack jobs that
// are being launched. Of what it lacks otherwise, those that LiveKit said had left
// come first, then those that nobody can name. The rest is taken for ended only
// when it stays so and, where LiveKit can be asked, only by asking: see found. Where
// LiveKit gives no answer the number must stay so for much longer. No more are ended
// than it lacks.
func (b *book) tell(calls, covered int, err error, canLook bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	usable := err == nil && covered >= b.most
	if usable && !b.own.at.IsZero() {
		b.stepLocked(calls-b.own.calls, now)
	}
	if b.own.err = err; err == nil {
		b.own.calls, b.own.at = calls, now
	}
	b.expireLocked(usable, canLook, now)
	if err != nil {
		b.own.since = time.Time{}
		return
	}
	// Where the number is too low for all, a running job is in it, not what was given up.
	b.zombies = max(0, min(b.zombies, calls-b.sureLocked(now)))
	have := calls - b.zombies
	all := b.inLocked(running, ending)
	if have >= len(all) {
		for _, j := range all {
			j.seen = true
		}
	}
	if have == len(all)+b.unlisted {
		b.owed = 0
	}
	b.unlisted = max(b.unlisted, have-len(all))
	starting := len(b.inLocked(running)) - b.sureLocked(now)
	over := len(all) + b.unlisted - starting - have
	if !usable {
		b.unlisted = max(0, have-len(all))
		b.own.since = time.Time{}
		return
	}
	for _, j := range b.inLocked(ending) {
		if over <= 0 {
			break
		}
		b.endLocked(j, endByNumber, now)
		over--
	}
	if n := min(over, b.unlisted); n > 0 {
		b.unlisted -= n
		over -= n
	}
	switch {
	case over <= 0:
		b.own.since = time.Time{}
	case b.own.since.IsZero():
		b.own.since = now
	case now.Sub(b.own.since) >= doubtFor:
		left := b.inLocked(running)
		slices.SortStableFunc(left, func(x, y *job) int { return cmp.Compare(truth(x.seen), truth(y.seen)) })
		for _, j := range left {
			asks := canLook && j.canBeLookedFor() && !j.unseenFor(blindFor, b.own.since, now)
			if over > 0 && !asks {
				b.endLocked(j, endByNumber, now)
				over--
			}
		}
	}
}

// sureLocked counts the running jobs that the number has, unless they have ended. It
// may lack those that are being launched.
func (b *book) sureLocked(now time.Time) int {
	n := 0
	for _, j := range b.inLocked(running) {
		if j.seen || now.Sub(j.started) >= launchWithin {
			n++
		}
	}
	return n
}

// stepLocked reads how the agents' number changed. A fall means that at least so
// many have ended: first those that were said to have, then those that have left,
// then those that were given up. A rise means that at least so many were launched.
func (b *book) stepLocked(step int, now time.Time) {
	if fall := -step; fall > 0 {
		paid := min(fall, b.owed)
		b.owed -= paid
		fall -= paid
		left := b.inLocked(ending)
		left = left[:min(fall, len(left))]
		for _, j := range left {
			b.endLocked(j, endByNumber, now)
		}
		b.zombies = max(0, b.zombies-(fall-len(left)))
	}
	for _, j := range b.inLocked(running) {
		if step > 0 && !j.seen {
			j.seen = true
			step--
		}
	}
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// expireLocked gives up what has waited for too long.
func (b *book) expireLocked(counted, canLook bool, now time.Time) {
	for id, j := range b.jobs {
		age := now.Sub(j.since)
		switch j.phase {
		case offered, accepted:
			if age >= reserveFor {
				delete(b.jobs, id)
			}
		case ending:
			// An agent that told its number and is silent now may be at work still,
			// and one that was not looked for may be in its room, for as long as a look
			// could still find it.
			silent := b.own.err != nil && !b.own.at.IsZero()
			enough := blindFor
			if counted {
				enough = blindAtWork
			}
			sought := !canLook || !j.absent.IsZero() || !j.canBeLookedFor() || j.unseenFor(enough, j.since, now)
			if !counted && !silent && sought && age >= endingUnseen || age >= endingFor && sought {
				if counted {
					b.zombies++
				}
				b.endLocked(j, endByTime, now)
			}
		case running:
		}
	}
}

// look lists the jobs whose rooms should be looked at: those that LiveKit says
// nothing of any more because their websocket is gone, those that the agents'
// number lacks, those that LiveKit said had left, and from time to time all. Those
// come first that were not looked at for the longest time, so that a room that takes
// all the time there is keeps no other from its turn.
func (b *book) look(now time.Time) []job {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []job
	for _, j := range b.inLocked(running, ending) {
		every, after := lookEvery, launchWithin
		switch {
		case j.phase == ending:
			every, after = absentFor, 0
		case !b.own.since.IsZero() || !j.absent.IsZero():
			every = absentFor
		case !b.sessions[j.session]:
			every = lookLost
		}
		since := j.started
		if j.looked.After(since) {
			since, after = j.looked, every
		}
		if j.phase == ending && j.since.After(since) {
			since, after = j.since, absentFor/2
		}
		if now.Sub(since) >= after && j.canBeLookedFor() {
			out = append(out, *j)
		}
	}
	slices.SortStableFunc(out, func(x, y job) int { return x.looked.Compare(y.looked) })
	return out
}

// unseen notes that a look into a job's room has failed, which says nothing of the
// job.
func (b *book) unseen(id string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil {
		j.looked = now
		if j.blind.IsZero() {
			j.blind = now
		}
	}
}

// isBlind says whether the latest look into the room of some job has failed.
func (b *book) isBlind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		if !j.blind.IsZero() {
			return true
		}
	}
	return false
}

// found notes whether a job's agent is in its room. LiveKit's lists lose
// participants for a moment, so one look is not enough to end a job. A job that
// was said to have left may be there: an agent that did not get through at first
// joins again, and LiveKit ends the job of the first try.
func (b *book) found(id string, there bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.jobs[id]
	if j == nil {
		return
	}
	was := j.phase
	j.looked, j.blind = now, time.Time{}
	switch {
	case there:
		j.absent, j.seen = time.Time{}, true
		if j.phase == ending {
			j.phase, j.since = running, now
			j.session = 0 // LiveKit will not tell its end again
		}
	case j.absent.IsZero():
		j.absent = now
	case now.Sub(j.absent) >= absentFor && j.phase == running:
		j.phase, j.since = ending, now
	}
	if j.phase != was {
		b.wake()
	}
}

// pause is how long the agents need not be asked again.
func (b *book) pause() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.inLocked(ending)) > 0: // an end is expected at any moment
		return 100 * time.Millisecond
	case b.unlisted > 0:
		return 500 * time.Millisecond
	default:
		return time.Second
	}
}

// inLocked lists the jobs of some phases, oldest first.
func (b *book) inLocked(phases ...phase) []*job {
	var out []*job
	for _, j := range b.jobs {
		if slices.Contains(phases, j.phase) {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(x, y *job) int {
		return cmp.Or(x.since.Compare(y.since), cmp.Compare(x.id, y.id))
	})
	return out
}

func (b *book) keepLocked(j *job) {
	b.journal.add(record{ID: j.id, Room: j.room, Agent: j.agent, Started: j.started})
}

func (b *book) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// answer is what the book says of the pod.
func (b *book) answer(now time.Time) witness.Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := witness.Answer{Pod: b.pod, At: now, Known: true, Draining: b.draining, Workers: len(b.sessions)}
	for _, id := range slices.Sorted(maps.Keys(b.jobs)) {
		j := b.jobs[id]
		switch j.phase {
		case offered:
			a.Offered++
			continue
		case accepted:
			a.Accepted++
		case running:
			a.Running++
		case ending:
			a.Ending++
		}
		a.Jobs = append(a.Jobs, witness.Job{
			ID: j.id, State: string(j.phase), Since: j.since, Started: j.started, Room: j.room, Agent: j.agent,
		})
	}
	a.Unlisted = b.unlisted
	a.Calls = a.Accepted + a.Running + a.Ending + a.Unlisted
	a.Used = b.used || !b.own.at.IsZero()
	switch {
	case !a.Used:
		a.Known, a.Reason = false, "no worker has come to it, nor does one say how many jobs it has; the agent's LIVEKIT_URL has to be the gate's address"
	case b.whole:
	case b.own.at.IsZero():
		a.Known, a.Reason = false, "it was started after the pod's first gate and the agent does not say how many jobs it has"
		if b.own.err != nil {
			a.Reason += ": " + b.own.err.Error()
		}
	case a.Calls == 0 && b.own.at.Sub(b.began) < launchWithin:
		a.Known, a.Reason = false, "it has just started; a job of before may still be launched"
	}
	// What goes past the gate is counted by the agent's number at best, and not stopped.
	a.Drained = a.Known && b.used && a.Draining != "" && a.Calls == 0
	return a
}
