// SPDX-License-Identifier: Apache-2.0

package fleet

import "time"

// phase is the phase of a call.
type phase int

const (
	dialling phase = iota
	answered
	away // agent or caller is away, and may come back within patience
	completed
	dropped
	unanswered
)

func (p phase) over() bool { return p >= completed }

// agentSight is what a caller knows about the agent's presence at one moment.
type agentSight int

const (
	agentUnknown agentSight = iota // the caller's own connection is away
	agentPresent
	agentAbsent
)

// observation is what is known about a call at one moment.
type observation struct {
	At    time.Time
	Agent agentSight
	// Left is the reason of the last agent's departure, if it left on purpose.
	Left string
	// Cut is the reason why the caller's own connection is over for good.
	Cut string
	// Lost is the cause of an agent's end, as the fleet knows it.
	Lost Cause
	// HungUp: the caller hung up. GaveUp: the caller waited too long for an answer.
	HungUp, GaveUp bool
}

// callState is the account of one call.
type callState struct {
	Phase       phase
	AnsweredAt  time.Time
	AwaySince   time.Time
	Blind       bool // away began with the caller's own connection
	EndedAt     time.Time
	Interrupted bool
	Cause       Cause
	Detail      string
}

// next accounts for another observation. An ended call stays as it is.
func (s callState) next(o observation) callState {
	switch {
	case s.Phase.over():
		return s
	case s.Phase == dialling:
		return s.dial(o)
	case o.Lost != "" && o.Agent != agentPresent:
		return s.drop(o.At, o.Lost, "")
	case o.HungUp:
		return s.hangUp(o)
	case o.Cut != "":
		return s.drop(o.At, CauseLiveKit, o.Cut)
	case o.Agent == agentPresent:
		if s.Phase == away {
			s.Interrupted = true
		}
		s.Phase, s.AwaySince, s.Blind = answered, time.Time{}, false
		return s
	case o.Agent == agentAbsent && o.Left != "":
		return s.drop(o.At, CauseAgentLeft, o.Left)
	}
	if s.Phase == answered {
		s.Phase, s.AwaySince, s.Blind = away, o.At, o.Agent == agentUnknown
	}
	if o.At.Sub(s.AwaySince) >= patience {
		return s.lapse(o)
	}
	return s
}

func (s callState) dial(o observation) callState {
	switch {
	case o.Agent == agentPresent && !o.HungUp:
		s.Phase, s.AnsweredAt = answered, o.At
	case o.HungUp, o.GaveUp, o.Cut != "":
		s.Phase, s.EndedAt, s.Detail = unanswered, o.At, o.Cut
	}
	return s
}

// hangUp completes a call, unless its agent was already gone: then the caller hung up because of silence. While LiveKit
// is away, or is back without the agent, that cannot be known, and the call counts as interrupted.
func (s callState) hangUp(o observation) callState {
	inDoubt := o.Agent == agentUnknown || s.Phase == away && s.Blind
	if o.Agent == agentAbsent && !inDoubt {
		return s.drop(o.At, CauseAgentLeft, "the agent was gone when the caller hung up")
	}
	if inDoubt {
		s.Interrupted = true
	}
	s.Phase, s.EndedAt = completed, o.At
	return s
}

// lapse drops a call whose agent or caller did not come back. It counts as lost since that began.
func (s callState) lapse(o observation) callState {
	switch {
	case !s.Blind:
		return s.drop(s.AwaySince, CauseAgentLeft, "the agent did not come back")
	case o.Agent == agentUnknown:
		return s.drop(s.AwaySince, CauseLiveKit, "the caller's connection did not come back")
	default:
		return s.drop(s.AwaySince, CauseLiveKit, "the caller's connection came back, the agent did not")
	}
}

func (s callState) drop(at time.Time, cause Cause, detail string) callState {
	s.Phase, s.EndedAt, s.Cause, s.Detail = dropped, at, cause, detail
	return s
}
