// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"slices"
	"time"
)

// number is the agents' own number of jobs, and what it shows in addition to the jobs that
// are known by id. It includes every job that a process has, and none that waits for one.
// It has no ids.
type number struct {
	calls int
	at    time.Time // zero: never reported
	err   error     // why the latest request failed
	moved time.Time // when a worker last said that a job was launched or had ended

	unnamed  int       // how many of the assigned jobs have a process according to the number, without knowing which
	unlisted int       // jobs that have a process according to the number, and whose ids are unknown
	perhaps  int       // how many of these may be assigned jobs after all
	lack     int       // launched jobs that are missing from the number, although nothing reported their end
	since    time.Time // since when so many are missing
	over     int       // how many of these count as ended by now, without knowing which
	usable   bool      // the latest answer covers all agents
}

// tell records the agents' number of jobs, and ends the jobs that it shows to have ended.
// asked is when the agents were asked, covered how many of them, and canLook whether their
// rooms can be looked into.
func (b *book) tell(calls, covered int, err error, canLook bool, asked, now time.Time) {
	b.update(func() {
		n := &b.number
		n.err = err
		usable := err == nil && covered >= b.most
		switch {
		case err != nil:
			n.lack, n.since = 0, time.Time{}
		case asked.Before(n.moved): // it may be older than what the worker has reported since
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

// countLocked compares the number with the known jobs that have a process. If it is higher,
// jobs were launched, first among those that wait for a process; if it is lower, jobs have
// ended.
func (b *book) countLocked(canLook bool, now time.Time) {
	n := &b.number
	waiting := b.inLocked(assigned)
	n.unnamed = min(n.unnamed, len(waiting))
	excess := n.calls - (len(b.inLocked(launched, inRoom, left, stuck)) - n.over) - n.unnamed - n.unlisted
	if excess >= 0 {
		n.lack, n.since = 0, time.Time{}
		wrong := min(excess, n.over) // some that counted as ended have not, as far as is known
		n.over -= wrong
		excess -= wrong
		if now.Sub(n.moved) < b.limits.doubt {
			return // it may still include a job whose end its worker has just reported
		}
		named := min(excess, len(waiting)-n.unnamed)
		perhaps := min(named, b.ghostsLocked(now))
		if !b.whole && now.Sub(b.began) < b.limits.launch {
			perhaps = named // it may be a job that an earlier gate knew
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
	// Jobs that work after their call are likely to end.
	lack := -excess
	likely := min(lack, max(0, len(b.inLocked(left, stuck))-n.over))
	n.over += likely
	lack -= likely
	fewer := min(lack, n.unlisted)
	n.unlisted -= fewer
	n.perhaps = min(n.perhaps, n.unlisted)
	b.lackLocked(lack-fewer, canLook, now)
}

// ghostsLocked counts the jobs that were given up before a process had them, and that a
// process may have after all. A launch may be one of these.
func (b *book) ghostsLocked(now time.Time) int {
	ghosts := 0
	for _, j := range b.past {
		if j.phase == assigned && now.Sub(j.started) < b.limits.launch {
			ghosts++
		}
	}
	return ghosts
}

// found records that an assigned job is known to have a process. The number had only shown
// that one was launched.
func (n *number) found() {
	switch {
	case n.unnamed > 0:
		n.unnamed--
	case n.perhaps > 0:
		n.perhaps--
		n.unlisted--
	}
}

// nameLocked decides which jobs are over according to the number, as soon as that is clear:
// all that have left their rooms, or all that exist. Among several it takes the one that
// left first, so that the remaining ones count for longer; but not while one may return to
// its room.
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

// lackLocked ends jobs that have been missing from the number for long enough, although
// nothing reported their end: no more than are missing, and only jobs that were launched
// according to the worker or the number.
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
