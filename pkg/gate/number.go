// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"slices"
	"time"
)

// number is what the agents say is the number of their jobs, and what it shows
// beside the jobs that are known by name. It has every job that a process has, and
// none that waits for one. It names no job.
type number struct {
	calls int
	at    time.Time // zero: never told
	err   error     // why the latest question has no answer
	moved time.Time // when a worker last said that a job was launched or had ended

	unnamed  int       // of the assigned jobs, those that a process has by number: not known which
	unlisted int       // jobs that a process has by number, and nobody can name
	lack     int       // launched jobs that the number does not have, though nobody said that they ended
	since    time.Time // since when it lacks so many
	usable   bool      // the latest told of all agents
}

// tell notes what the agents say is the number of their jobs, and ends what that
// shows to have ended. The agents were asked at a time; covered is how many of them,
// and canLook says whether their rooms can be looked into.
func (b *book) tell(calls, covered int, err error, canLook bool, asked, now time.Time) {
	b.update(func() {
		n := &b.number
		n.err = err
		usable := err == nil && covered >= b.most
		switch {
		case err != nil:
			n.lack, n.since = 0, time.Time{}
		case asked.Before(n.moved): // it may be older than what the worker said since
			usable = n.usable
		case !usable:
			n.calls, n.at = calls, now
			n.lack, n.since = 0, time.Time{}
			n.unlisted = max(0, calls-len(b.inLocked(assigned, launched, inRoom, left, stuck)))
		default:
			n.calls, n.at = calls, now
			b.countLocked(canLook, now)
		}
		n.usable = usable
		b.expireLocked(canLook, now)
	})
}

// countLocked compares the number with the jobs that a process has. What it has more
// are launches, of jobs that wait for one before others; what it lacks has ended.
func (b *book) countLocked(canLook bool, now time.Time) {
	n := &b.number
	waiting := b.inLocked(assigned)
	n.unnamed = min(n.unnamed, len(waiting))
	excess := n.calls - len(b.inLocked(launched, inRoom, left, stuck)) - n.unnamed - n.unlisted
	if excess >= 0 {
		n.lack, n.since = 0, time.Time{}
		if now.Sub(n.moved) < b.limits.doubt {
			return // it may have a job still that its worker has just said has ended
		}
		named := min(max(0, excess-b.ghostsLocked(now)), len(waiting)-n.unnamed)
		if !b.whole && now.Sub(b.began) < b.limits.launch {
			named = 0 // it may be a job that an earlier gate knew of
		}
		n.unnamed += named
		n.unlisted += excess - named
		if n.unnamed == len(waiting) {
			for _, j := range waiting {
				b.proveLocked(j, launched, now)
			}
		}
		return
	}
	// What has ended by number has no name. One that was at work after its call is
	// likely to, first the one that was given up: who is at work still counts.
	lack := -excess
	for _, j := range append(b.inLocked(stuck), b.inLocked(left)...) {
		if lack > 0 {
			b.endLocked(j, endByNumber, now)
			lack--
		}
	}
	fewer := min(lack, n.unlisted)
	n.unlisted -= fewer
	b.lackLocked(lack-fewer, canLook, now)
}

// ghostsLocked counts the jobs that were given up before a process had them, and that
// a process may have after all: a launch may be of one of these.
func (b *book) ghostsLocked(now time.Time) int {
	ghosts := 0
	for _, j := range b.past {
		if j.phase == assigned && now.Sub(j.started) < b.limits.launch {
			ghosts++
		}
	}
	return ghosts
}

// lackLocked ends jobs that the number lacks though nobody said that they ended,
// once it has lacked them for long enough. No more are ended than it lacks, and none
// that has not been launched: of a worker that says so, and of any other until the
// number has shown it.
func (b *book) lackLocked(lack int, canLook bool, now time.Time) {
	n := &b.number
	if lack == 0 || lack > n.lack {
		n.since = now
	}
	if n.lack = lack; lack == 0 {
		n.since = time.Time{}
		return
	}
	age := now.Sub(n.since)
	for _, j := range b.inLocked(launched, inRoom) {
		enough := b.limits.doubt
		if canLook && j.canBeLookedFor() {
			enough = b.limits.lack
		}
		if n.lack > 0 && age >= enough {
			b.endLocked(j, endByNumber, now)
			n.lack--
		}
	}
	if n.lack == 0 || n.unnamed == 0 || age < b.limits.lack {
		return
	}
	n.unnamed--
	n.lack--
	waiting := b.inLocked(assigned)
	if i := slices.IndexFunc(waiting, func(j *job) bool { return !b.reports[j.session] }); i >= 0 {
		b.endLocked(waiting[i], endByNumber, now)
	}
}
