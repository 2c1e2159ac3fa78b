// SPDX-License-Identifier: Apache-2.0

package callgate

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
	perhaps  int       // of these, those that may be assigned jobs all the same
	lack     int       // launched jobs that the number does not have, though nobody said that they ended
	since    time.Time // since when it lacks so many
	over     int       // of these, those that are taken for ended by now: not known which
	usable   bool      // the latest told of all agents
}

// tell notes what the agents say is the number of their jobs, and ends what that
// shows to have ended. The agents were asked at a time; covered is how many of them,
// and canLook reports whether their rooms can be looked into.
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
			n.perhaps = min(n.perhaps, n.unlisted)
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
	excess := n.calls - (len(b.inLocked(launched, inRoom, left, stuck)) - n.over) - n.unnamed - n.unlisted
	if excess >= 0 {
		n.lack, n.since = 0, time.Time{}
		wrong := min(excess, n.over) // what was taken for ended has not, for all that is known
		n.over -= wrong
		excess -= wrong
		if now.Sub(n.moved) < b.limits.doubt {
			return // it may have a job still that its worker has just said has ended
		}
		named := min(excess, len(waiting)-n.unnamed)
		perhaps := min(named, b.ghostsLocked(now))
		if !b.whole && now.Sub(b.began) < b.limits.launch {
			perhaps = named // it may be a job that an earlier gate knew of
		}
		n.unnamed += named - perhaps
		n.unlisted += excess - named + perhaps
		n.perhaps += perhaps
		if n.unnamed == len(waiting) {
			for _, j := range waiting {
				b.proveLocked(j, launched, now)
			}
		}
		return
	}
	// Those that are at work after their call are likely to end.
	lack := -excess
	likely := min(lack, max(0, len(b.inLocked(left, stuck))-n.over))
	n.over += likely
	lack -= likely
	fewer := min(lack, n.unlisted)
	n.unlisted -= fewer
	n.perhaps = min(n.perhaps, n.unlisted)
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

// found enters that an assigned job is known to have a process: the number had
// shown that one was launched, and not which.
func (n *number) found() {
	switch {
	case n.unnamed > 0:
		n.unnamed--
	case n.perhaps > 0:
		n.perhaps--
		n.unlisted--
	}
}

// nameLocked gives names to the jobs that are over by number, as soon as it is known
// which: all that have left their rooms, or all that there are. Of several the one that
// left first is taken, so that who is at work still left later and counts for longer;
// but not while one may be on its way back.
func (b *book) nameLocked(now time.Time) {
	n := &b.number
	left := append(b.inLocked(stuck), b.inLocked(left)...)
	back := slices.ContainsFunc(left, func(j *job) bool { return j.mayComeBack(b.limits, now) })
	if n.over < len(left) && back {
		return
	}
	for _, j := range left[:min(n.over, len(left))] {
		b.endLocked(j, endByNumber, now)
		n.over--
	}
	if running := b.inLocked(launched, inRoom); n.over >= len(running) {
		for _, j := range running {
			b.endLocked(j, endByNumber, now)
		}
		n.over = 0
	}
}

// lackLocked takes jobs for over that the number lacks though nobody said that they
// ended, once it has lacked them for long enough: no more than it lacks, and none that
// has not been launched, for all that the worker says or the number has shown.
func (b *book) lackLocked(lack int, canLook bool, now time.Time) {
	n := &b.number
	if lack == 0 || lack > n.lack {
		n.since = now
	}
	if n.lack = lack; lack == 0 {
		n.since = time.Time{}
		return
	}
	age, enough := now.Sub(n.since), b.limits.doubt
	if canLook {
		enough = b.limits.lack
	}
	if age >= enough {
		more := min(n.lack, len(b.inLocked(launched, inRoom, left, stuck))-n.over)
		n.over += more
		n.lack -= more
	}
	if n.lack == 0 || n.unnamed == 0 || age < b.limits.lack {
		return
	}
	n.unnamed--
	n.lack--
	waiting := b.inLocked(assigned)
	if i := slices.IndexFunc(waiting, func(j *job) bool { return !b.reportsOf(j) }); i >= 0 {
		b.endLocked(waiting[i], endByNumber, now)
	}
}
