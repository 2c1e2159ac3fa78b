// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// phase is how far a job is. docs/jobs.md explains what moves a job on, and why that
// evidence is trusted.
type phase string

const (
	offered  phase = "offered"  // the agent has not answered
	late     phase = "late"     // it said yes after LiveKit had given up
	accepted phase = "accepted" // it said yes; LiveKit has not assigned the job
	assigned phase = "assigned" // LiveKit has assigned it; no process of the agent has it yet
	launched phase = "launched" // a process has it
	inRoom   phase = "in-room"  // its agent is in the room
	left     phase = "left"     // its agent has left the room; its process is still working
	stuck    phase = "stuck"    // its process has not ended for so long that it does not count as a call any more
)

// public returns the word for a phase in GET /calls.
func (p phase) public() string {
	switch p {
	case assigned, launched, inRoom:
		return "running"
	case left:
		return "ending"
	default:
		return string(p)
	}
}

// limits are how long each piece of evidence has to last before it moves a job on.
type limits struct {
	// launch is the maximum time from a job's assignment to its process.
	launch time.Duration
	// answer is how long LiveKit waits for a worker's answer: psrpc's default of 3 s limits
	// its request, although LiveKit's own limit for a worker is 10 s.
	answer time.Duration
	// reserve is the maximum time from an offer to its answer, and from an accepted offer to
	// its job. LiveKit assigns at once, and only on the websocket of the offer; LiveKit Agents
	// waits 7.5 s for it.
	reserve time.Duration
	// ending is the maximum time of the work after a call while the agent's number shows that
	// it goes on: LiveKit Agents allows 5 minutes. A process that never ends must not hold the
	// pod.
	ending time.Duration
	// endingUnseen is the same if the agent does not report its number, and endingUntold if,
	// in addition, LiveKit has not said that the agent left: after a restart of LiveKit the
	// agent may come back.
	endingUnseen, endingUntold time.Duration
	// doubt is how long a launched job must be missing from the agent's number before the job
	// counts as ended. lack is the same if looks into rooms could show it, or if no launch was
	// seen: longer than any delay of LiveKit's lists.
	doubt, lack time.Duration
	// back is how long an agent may take to return to its room if LiveKit did not say that it
	// left: it tries for that long after a restart of LiveKit.
	back time.Duration
	// absent is how long an agent must be missing from its room, and gone how long the room of
	// a job that has not been launched must be missing: a restarted LiveKit knows no room
	// until its callers are back.
	absent, gone time.Duration
	// blind and blindAtWork are how long all looks into the room of a job that is said to have
	// left must have failed before the job is judged without them, because its agent may be in
	// the room again. blind applies if there is no number, and is longer than LiveKit is away
	// when it is replaced; blindAtWork applies if the number includes the job.
	blind, blindAtWork time.Duration
}

func limitsWith(launch time.Duration) limits {
	return limits{
		launch: launch, answer: 3 * time.Second, reserve: 15 * time.Second,
		ending: 6 * time.Minute, endingUnseen: 10 * time.Second, endingUntold: 30 * time.Second,
		doubt: 3 * time.Second, lack: 2 * time.Minute,
		back:   time.Minute,
		absent: 2 * time.Second, gone: 30 * time.Second,
		blind: 10 * time.Minute, blindAtWork: time.Hour,
	}
}

const (
	// lookFirst is when the room of a job is looked at for the first time. lookEvery, lookSoon
	// and lookAgain are how often it is looked at then: for a running job, for a job in doubt,
	// and for one that was missing from its room.
	lookFirst = 15 * time.Second
	lookEvery = time.Minute
	lookSoon  = 5 * time.Second
	lookAgain = 2 * time.Second
	// maxPast is how many jobs are remembered after their end.
	maxPast = 1000
)

// DefaultLaunchLimit is the maximum time from a job's assignment to its process. LiveKit
// Agents for Python launches a job up to three times, waits for up to three processes each
// time, and gives each 10 s to start: 90 s. The rest is for jobs that wait in front of it:
// no more than four processes start at once.
const DefaultLaunchLimit = 5 * time.Minute

// job is one offer of LiveKit, and what became of it.
type job struct {
	id, room, agent string
	session         uint64 // the session it came on; 0 for a job of an earlier gate
	phase           phase
	since           time.Time // of the phase
	started         time.Time // when it was assigned
	told            bool      // LiveKit said that its agent left
	absent          time.Time // since when looks do not find its agent
	gone            time.Time // since when looks do not find its room
	looked          time.Time // when its room was looked at last
	blind           time.Time // since when looks into its room have failed
}

// to moves the job on.
func (j *job) to(p phase, now time.Time) {
	if j.phase != p {
		j.phase, j.since = p, now
	}
}

// isTried reports whether kubectl calls try made the call, in which nobody talks.
func (j *job) isTried() bool { return strings.HasPrefix(j.room, call.TryRoomPrefix) }

// canBeLookedFor reports whether a look into a room could find the job's agent.
func (j *job) canBeLookedFor() bool { return j.room != "" }

// hasProcess reports whether the agent's number includes the job, unless the job has ended.
func (j *job) hasProcess() bool {
	switch j.phase {
	case launched, inRoom, left, stuck:
		return true
	default:
		return false
	}
}

// sight is what a look into a job's room saw.
type sight struct {
	open  bool // the room exists
	there bool // the job's agent is in it
}

// saw records what a look into the job's room saw. LiveKit's lists lose participants and
// rooms for a moment, so one look is not enough to move a job on. It reports whether the
// job's room is gone for good: then a job without a process has no caller left.
func (j *job) saw(s sight, l limits, now time.Time) (over bool) {
	j.looked, j.blind = now, time.Time{}
	if s.open {
		j.gone = time.Time{}
	} else if j.gone.IsZero() {
		j.gone = now
	}
	if s.there {
		j.absent, j.told = time.Time{}, false
		if j.phase == left || j.phase == stuck {
			j.session = 0 // LiveKit will not report its end again
		}
		j.to(inRoom, now)
		return false
	}
	if j.absent.IsZero() {
		j.absent = now
		return false
	}
	gone := !j.gone.IsZero() && now.Sub(j.gone) >= l.gone
	switch j.phase {
	case assigned:
		return gone
	case launched:
		// Its agent has not been seen in the room. It may be about to join, once its models are
		// loaded.
		if gone || now.Sub(j.since) >= l.launch {
			j.to(left, now)
		}
	case inRoom:
		if now.Sub(j.absent) >= l.absent {
			j.to(left, now)
		}
	case offered, late, accepted, left, stuck:
	}
	return false
}

// isOver reports whether a job that has left its room no longer counts as a call. counted
// reports that the agent's number can be trusted, silent that the agent used to report a
// number and does not now, and canLook that rooms can be looked into.
func (j *job) isOver(l limits, counted, silent, canLook bool, now time.Time) bool {
	age := now.Sub(j.since)
	enough := l.blind
	if counted {
		enough = l.blindAtWork
	}
	sought := !canLook || !j.canBeLookedFor() || !j.absent.IsZero() ||
		!j.blind.IsZero() && age >= enough && now.Sub(j.blind) >= enough
	switch {
	case !sought:
		return false
	case counted || silent:
		return age >= l.ending
	case j.told:
		return age >= l.endingUnseen
	default:
		return age >= l.endingUntold
	}
}

// mayComeBack reports whether the agent of a job that is missing from its room may return.
func (j *job) mayComeBack(l limits, now time.Time) bool {
	return j.phase == left && !j.told && now.Sub(j.since) < l.back
}

// nextLook returns when the job's room has to be looked at.
func (j *job) nextLook(lost, lacking bool) time.Time {
	every, first := lookEvery, lookFirst
	switch {
	case j.phase == left:
		every, first = lookSoon, lookAgain/2
	case j.phase == inRoom && (lacking || !j.absent.IsZero()):
		every, first = lookAgain, lookAgain
	case j.phase == assigned || j.phase == launched || lost:
		every, first = lookSoon, lookSoon
	}
	begin := j.started
	if j.phase == left {
		begin = j.since
	}
	if j.looked.After(begin) {
		return j.looked.Add(every)
	}
	return begin.Add(first)
}
