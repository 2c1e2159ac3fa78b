// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/witness/gate"
)

// book knows the jobs of the pod, and whether offers are accepted. Everything about a job
// is decided under its lock: once draining is set, no offer is accepted any more. It does
// no I/O: what has to be written waits in the journal until the lock is free.
type book struct {
	mu     sync.Mutex
	pod    types.UID
	limits limits
	began  time.Time

	jobs     map[string]*job
	past     []*job          // ended jobs, the latest last: a job may come back
	sessions map[uint64]bool // registered workers
	reports  map[uint64]bool // sessions of workers that report when a job is launched and has ended
	most     int             // the most sessions that were registered at the same time
	used     bool            // a worker has connected, even if LiveKit refused it
	draining string
	// whole reports that the book knows every job of the pod: this gate is the pod's first, or
	// has read everything that the one before it knew.
	whole bool

	number number

	journal *journal
	changed chan struct{} // a job may have ended
	counts  *Metrics
}

func newBook(pod types.UID, launchLimit time.Duration, began time.Time, counts *Metrics) *book {
	return &book{
		pod: pod, limits: limitsWith(launchLimit), began: began, counts: counts,
		jobs: map[string]*job{}, sessions: map[uint64]bool{}, reports: map[uint64]bool{},
		changed: make(chan struct{}, 1),
	}
}

// update changes the book, then writes the changes to the journal. The book's lock is free
// while the journal is written.
func (b *book) update(change func()) {
	b.mu.Lock()
	unlisted := b.number.unlisted
	change()
	if b.number.unlisted != unlisted {
		b.journal.number(unlistedFile, b.number.unlisted)
	}
	b.mu.Unlock()
	b.journal.flush()
}

// restore takes over what an earlier gate knew. whole reports that nothing is missing from
// that.
func (b *book) restore(l legacy, whole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole, b.most, b.number.unlisted = whole, max(b.most, l.workers), l.unlisted
	b.used = b.used || l.workers > 0 || len(l.jobs) > 0
	for _, r := range l.jobs {
		started := r.Started
		if started.IsZero() { // its file was only partly written
			started = b.began
		}
		j := &job{id: r.ID, room: r.Room, agent: r.Agent, phase: assigned, since: started, started: started}
		if r.Launched {
			j.phase = launched
		}
		b.jobs[r.ID] = j
	}
}

// drain puts the order to drain into effect. It is never taken back, because others rely on
// that no job is accepted after it.
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

// comes records that a worker of the pod has connected to this gate.
func (b *book) comes() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = true
}

// register records that a worker's websocket is open.
func (b *book) register(session uint64) {
	b.update(func() {
		b.sessions[session], b.used = true, true
		if len(b.sessions) > b.most {
			b.most = len(b.sessions)
			b.journal.number(workersFile, b.most)
		}
	})
}

// lose records that a worker's websocket is gone. Offers that were not assigned on it
// cannot be any more; jobs go on.
func (b *book) lose(session uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, session)
	for id, j := range b.jobs {
		if j.session == session && j.started.IsZero() {
			delete(b.jobs, id)
		}
	}
	b.wake()
}

// offer reports whether the offer is passed on to the worker. If not, the gate answers no.
func (b *book) offer(session uint64, id, room string, now time.Time) (ask bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining != "" {
		b.counts.offers.WithLabelValues(offerRefused).Inc()
		return false
	}
	if b.jobs[id] == nil { // otherwise it is running and is offered again
		b.jobs[id] = &job{id: id, room: room, session: session, phase: offered, since: now}
	}
	b.counts.offers.WithLabelValues(offerPassed).Inc()
	return true
}

// accept reports whether the worker's yes is passed on. If not, LiveKit gets a no, because
// the order to drain came between the offer and the answer. A yes that comes after LiveKit
// has given up is passed on and does not count as a call, because no job follows it.
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
	next := accepted
	if j == nil { // the answer came after the offer was forgotten
		j = &job{id: id, phase: offered}
		b.jobs[id] = j
		next = late
	}
	if j.phase == offered {
		if now.Sub(j.since) > b.limits.answer {
			next = late
		}
		j.session, j.agent = session, agent
		j.to(next, now)
	}
	b.counts.answers.WithLabelValues(answerAccepted).Inc()
	return true
}

// decline records the worker's no.
func (b *book) decline(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil && j.phase == offered {
		delete(b.jobs, id)
	}
	b.counts.answers.WithLabelValues(answerDeclined).Inc()
}

// assign records that LiveKit gives the worker a job, and returns once that is written to
// the journal. Only then the worker is told.
func (b *book) assign(session uint64, id, room, agent string, now time.Time) {
	b.update(func() {
		j := b.jobs[id]
		if j == nil {
			j = &job{id: id}
			b.jobs[id] = j
		}
		j.session, j.room, j.agent = session, cmp.Or(room, j.room), cmp.Or(agent, j.agent)
		if !j.hasProcess() {
			j.to(assigned, now)
			j.started = now
		}
		b.counts.jobs.Inc()
		b.keepLocked(j)
	})
	b.wake()
}

// adopt takes over the jobs that a worker says it runs.
func (b *book) adopt(session uint64, ids []string, now time.Time) {
	b.update(func() {
		b.reports[session] = true
		for _, id := range ids {
			b.launchLocked(session, id, now)
		}
		b.number.moved = now
	})
}

// launched records that the worker says a job runs.
func (b *book) launched(session uint64, id string, now time.Time) {
	b.update(func() {
		b.reports[session] = true
		b.launchLocked(session, id, now)
		b.number.moved = now
	})
}

// launchLocked records that a process has a job, because the worker says so. A job that was
// given up comes back under its own id.
func (b *book) launchLocked(session uint64, id string, now time.Time) {
	j := b.jobs[id]
	if j == nil {
		if i := slices.IndexFunc(b.past, func(p *job) bool { return p.id == id }); i >= 0 {
			j = b.past[i]
			b.past = slices.Delete(b.past, i, i+1)
			j.absent, j.gone, j.blind, j.told = time.Time{}, time.Time{}, time.Time{}, false
		} else {
			j = &job{id: id, started: now}
		}
		b.jobs[id] = j
		j.session = session
		b.number.unlisted = max(0, b.number.unlisted-1) // it may have been counted without a name
		b.number.perhaps = min(b.number.perhaps, b.number.unlisted)
		j.to(launched, now)
		b.keepLocked(j)
		return
	}
	if j.session == 0 {
		j.session = session
	}
	if !j.hasProcess() {
		if j.started.IsZero() {
			j.started = now
		}
		b.proveLocked(j, launched, now)
	}
}

// proveLocked records that a process has a job of which that was not known. If the number
// had shown a launch without a name, it was this one.
func (b *book) proveLocked(j *job, p phase, now time.Time) {
	if j.phase == assigned {
		b.number.found()
	}
	j.to(p, now)
	b.keepLocked(j)
}

// reportsOf reports whether the worker of a job reports launches. If there was never more
// than one worker, a worker on another websocket is the same one.
func (b *book) reportsOf(j *job) bool {
	return b.reports[j.session] || b.most <= 1 && len(b.reports) > 0
}

// leave records that LiveKit tells the worker to end a job, because its agent has left the
// room or has to.
func (b *book) leave(id string, now time.Time) {
	b.update(func() {
		j := b.jobs[id]
		switch {
		case j == nil:
		case j.phase == launched || j.phase == inRoom:
			j.told, j.absent = true, time.Time{}
			j.to(left, now)
		case j.phase == assigned && !b.reportsOf(j) && (b.number.unnamed > 0 || !b.number.usable):
			// The number shows a launch, or there is no number. And only an agent that was in its
			// room leaves it.
			j.told, j.absent = true, time.Time{}
			b.proveLocked(j, left, now)
		}
		// A worker ignores the end of a job that it has not launched yet: the job still starts.
	})
	b.wake()
}

// end records that the worker says a job has ended.
func (b *book) end(session uint64, id string, now time.Time) {
	b.update(func() {
		b.reports[session] = true
		if j := b.jobs[id]; j != nil {
			switch {
			case j.phase == assigned:
				b.number.found()
			case j.hasProcess():
				b.number.over = max(0, b.number.over-1) // it may have been this one
			}
			b.endLocked(j, endByWorker, now)
		}
		b.number.moved = now
	})
	b.wake()
}

// endLocked ends a job. The job is remembered, because it may come back.
func (b *book) endLocked(j *job, by string, now time.Time) {
	delete(b.jobs, j.id)
	if j.started.IsZero() {
		return
	}
	b.journal.drop(j.id)
	b.counts.ends.WithLabelValues(by).Inc()
	if !j.isTried() {
		b.counts.duration.Observe(now.Sub(j.started).Seconds())
	}
	if b.past = append(b.past, j); len(b.past) > maxPast {
		b.past = slices.Delete(b.past, 0, len(b.past)-maxPast)
	}
}

// expireLocked gives up jobs and offers that have waited for too long.
func (b *book) expireLocked(canLook bool, now time.Time) {
	counted := b.number.usable
	silent := b.number.err != nil && !b.number.at.IsZero()
	b.nameLocked(now)
	for _, j := range b.inLocked(offered, late, accepted, assigned, left, stuck) {
		age := now.Sub(j.since)
		switch j.phase {
		case offered, late, accepted:
			if age >= b.limits.reserve {
				delete(b.jobs, j.id)
			}
		case assigned:
			switch {
			case age < b.limits.launch:
			case b.reportsOf(j): // its worker would have reported the launch
				b.endLocked(j, endByTime, now)
			default:
				// It was launched, or never will be. From now on the number and its room decide.
				b.proveLocked(j, launched, now)
			}
		case left:
			switch over := j.isOver(b.limits, counted, silent, canLook, now); {
			case over && counted:
				j.to(stuck, now)
			case over:
				b.number.over = max(0, b.number.over-1) // it may have been this one
				b.endLocked(j, endByTime, now)
			}
		case stuck:
			if !counted && age >= b.limits.blindAtWork {
				b.number.over = max(0, b.number.over-1)
				b.endLocked(j, endByTime, now)
			}
		case launched, inRoom:
		}
	}
	// A launch that the number has shown still counts, even if all jobs that it could have been
	// are given up.
	if more := b.number.unnamed - len(b.inLocked(assigned)); more > 0 {
		b.number.unnamed -= more
		b.number.unlisted += more
	}
}

// look lists the jobs whose rooms have to be looked at now, the longest not looked at
// first, so that a slow room does not keep others from their turn.
func (b *book) look(now time.Time) []job {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []job
	for _, j := range b.inLocked(assigned, launched, inRoom, left, stuck) {
		lacking := b.number.lack > 0
		if j.canBeLookedFor() && !now.Before(j.nextLook(!b.sessions[j.session], lacking)) {
			out = append(out, *j)
		}
	}
	slices.SortStableFunc(out, func(x, y job) int { return x.looked.Compare(y.looked) })
	return out
}

// unseen records that a look into a job's room has failed, which says nothing about the
// job.
func (b *book) unseen(id string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil {
		j.looked, j.gone = now, time.Time{} // a LiveKit that was away may have been restarted
		if j.blind.IsZero() {
			j.blind = now
		}
	}
}

// unasked records that a job's room could not be looked into now, because of the request
// limit. It keeps its turn.
func (b *book) unasked(id string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.jobs[id]; j != nil && j.blind.IsZero() {
		j.blind = now
	}
}

// isBlind reports whether the latest look into the room of some job has failed.
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

// saw records what a look into a job's room saw.
func (b *book) saw(id string, s sight, now time.Time) {
	b.update(func() {
		j := b.jobs[id]
		if j == nil {
			return
		}
		was := j.phase
		if s.there && was == assigned {
			b.proveLocked(j, inRoom, now)
		}
		over := j.saw(s, b.limits, now)
		switch {
		case over && b.number.unnamed > 0 && !b.reportsOf(j): // a process may have it
			b.proveLocked(j, left, now)
		case over:
			b.endLocked(j, endByRoom, now)
		}
		if over || j.phase != was {
			b.wake()
		}
	})
}

// pause returns how long the agents need not be asked again.
func (b *book) pause() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.inLocked(left)) > 0: // an end is expected at any moment
		return 100 * time.Millisecond
	case len(b.inLocked(assigned)) > 0: // a launch is
		return 250 * time.Millisecond
	case b.number.unlisted > 0 || b.number.lack > 0:
		return 500 * time.Millisecond
	default:
		return time.Second
	}
}

// inLocked lists the jobs in the given phases, the longest in their phase first.
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

// keepLocked queues a job for the journal. update writes it after the lock is released.
func (b *book) keepLocked(j *job) {
	b.journal.add(record{ID: j.id, Room: j.room, Agent: j.agent, Started: j.started, Launched: j.hasProcess()})
}

func (b *book) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// answer returns what the book knows about the pod.
func (b *book) answer(now time.Time) gate.Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := gate.Answer{Pod: b.pod, At: now, Known: true, Draining: b.draining, Workers: len(b.sessions)}
	mayCome, stucks := false, 0 // even if they are not calls
	for _, id := range slices.Sorted(maps.Keys(b.jobs)) {
		j := b.jobs[id]
		switch j.phase {
		case offered:
			a.Offered++
			continue
		case late:
			mayCome = true
			continue
		case stuck:
			stucks++
			continue
		case accepted:
			a.Accepted++
		case assigned, launched, inRoom:
			a.Running++
		case left:
			a.Ending++
		}
		a.Jobs = append(a.Jobs, gate.Job{
			ID: j.id, State: j.phase.public(), Since: j.since, Started: j.started, Room: j.room, Agent: j.agent, Tried: j.isTried(),
		})
	}
	over := max(0, b.number.over-stucks) // stuck jobs are named first, and do not count
	ended := min(over, a.Ending)
	a.Ending, a.Running = a.Ending-ended, max(0, a.Running-(over-ended))
	a.Unlisted = b.number.unlisted
	a.Calls = a.Accepted + a.Running + a.Ending + a.Unlisted
	a.Used = b.used || !b.number.at.IsZero()
	switch {
	case !a.Used:
		a.Known, a.Reason = false, "no worker has connected, and none reports how many jobs it has; set the agent's LIVEKIT_URL to call-gate's address"
	case b.whole:
	case b.number.at.IsZero():
		a.Known, a.Reason = false, "it was started after the pod's first gate and the agent does not say how many jobs it has"
		if b.number.err != nil {
			a.Reason += ": " + b.number.err.Error()
		}
	case a.Calls == 0 && b.number.at.Sub(b.began) < b.limits.launch:
		a.Known, a.Reason = false, "call-gate has just started; a job that was accepted before may still be launched"
	}
	// Jobs that bypass the gate are counted by the agent's number at best, and are not
	// refused.
	a.Drained = a.Known && b.used && a.Draining != "" && a.Calls == 0 && !mayCome
	return a
}
