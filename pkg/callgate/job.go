// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"strings"
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// phase is how far a job is. docs/jobs.md has what moves one on, and why that is
// believed.
type phase string

const (
	offered  phase = "offered"  // the agent has not answered
	late     phase = "late"     // it said yes after LiveKit had given up
	accepted phase = "accepted" // it said yes; LiveKit has not assigned the job
	assigned phase = "assigned" // LiveKit has; no process of the agent has it yet
	launched phase = "launched" // a process has it
	inRoom   phase = "in-room"  // its agent is in the room
	left     phase = "left"     // its agent has left the room; the process is at work still
	stuck    phase = "stuck"    // the process has not ended for so long that it is no call any more
)

// public is the word of GET /calls for a phase.
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

// limits are how long each piece of evidence has to stand before it moves a job on.
type limits struct {
	// launch is the longest from a job's assignment to its process.
	launch time.Duration
	// answer is how long LiveKit waits for a worker's answer: psrpc's default of 3 s
	// bounds its request, whatever its own 10 s for a worker say.
	answer time.Duration
	// reserve is how long an offer may be without an answer, and an accepted one
	// without its job. LiveKit assigns at once, and not on another websocket than the
	// one it asked on; LiveKit Agents waits 7.5 s for it.
	reserve time.Duration
	// ending bounds the work after a call where the agent's number says that it goes
	// on: LiveKit Agents gives it 5 minutes. A process that never ends does not hold
	// the pod.
	ending time.Duration
	// endingUnseen is the same where the agent does not tell its number, and
	// endingUntold where LiveKit has not said that the agent left either: one whose
	// LiveKit was started anew may be on its way back.
	endingUnseen, endingUntold time.Duration
	// doubt is how long the agent's number must lack a launched job before the job is
	// taken for ended, and lack the same where looks could tell, or no launch was seen:
	// longer than anything that a list of LiveKit is late by.
	doubt, lack time.Duration
	// back is how long an agent that LiveKit did not say has left may take to be in its
	// room again: it tries for as long where LiveKit was started anew.
	back time.Duration
	// absent is how long an agent must be missing from its room, and gone how long the
	// room itself of a job that has not been launched: a LiveKit that was started anew
	// knows no room until its callers are back.
	absent, gone time.Duration
	// blind and blindAtWork are how long looks into the room of a job that was said to
	// have left must have failed, one and all, before it goes on without: blind where
	// no number tells, which is longer than LiveKit is away when it is replaced, and
	// blindAtWork where the number has it. It may be in its room again.
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
	// lookFirst is when the room of a job is looked at first, and lookEvery, lookSoon and
	// lookAgain how often: of a running job, of one that something is in doubt of, and
	// of one that was missing from its room.
	lookFirst = 15 * time.Second
	lookEvery = time.Minute
	lookSoon  = 5 * time.Second
	lookAgain = 2 * time.Second
	// maxPast bounds the jobs that are remembered after their end.
	maxPast = 1000
)

// DefaultLaunchLimit is how long a job may take from its assignment to its process.
// LiveKit Agents for Python launches a job up to three times, waits for up to three
// processes each time, and gives each 10 s to start: 90 s. The rest is for jobs that
// stand in line before it: no more than four processes start at once.
const DefaultLaunchLimit = 5 * time.Minute

// job is one offer of LiveKit and what became of it.
type job struct {
	id, room, agent string
	session         uint64 // the websocket it came on; 0 for one of an earlier gate
	phase           phase
	since           time.Time // of the phase
	started         time.Time // when it was assigned
	told            bool      // LiveKit said that it left
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

// hasProcess reports whether the agent's number has the job, unless it has ended.
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
	open  bool // there is such a room
	there bool // the job's agent is in it
}

// saw notes what a look into the job's room saw. LiveKit's lists lose participants
// and rooms for a moment, so one look is not enough to move a job on. It reports
// whether the job's room is gone for good: a job that has no process then has
// nobody to talk to.
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
			j.session = 0 // LiveKit will not tell its end again
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
		// It has not been seen in its room: it may be about to join, once its models
		// are loaded.
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

// isOver reports whether a job that has left its room is no call any more. counted
// says that the agent's number is to be believed, silent that the agent told one and
// does not now, and canLook that rooms can be looked into.
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

// mayComeBack reports whether a job that looks no longer find in its room may be there
// again.
func (j *job) mayComeBack(l limits, now time.Time) bool {
	return j.phase == left && !j.told && now.Sub(j.since) < l.back
}

// nextLook is when the job's room is to be looked at.
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
