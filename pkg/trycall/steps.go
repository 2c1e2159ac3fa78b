// SPDX-License-Identifier: Apache-2.0

package trycall

import (
	"errors"
	"time"
)

// Outcome is the result of a step.
type Outcome string

// The outcomes.
const (
	Done   Outcome = "OK"
	Failed Outcome = "FAIL"
	// Unchecked is a step that cannot be checked from here.
	Unchecked Outcome = "?"
)

// The steps, in order.
const (
	StepKey     = "key"     // LiveKit answers, and accepts the key
	StepDial    = "dial"    // the caller is in a room of its own, with media
	StepAnswer  = "answer"  // an agent is in the room
	StepSpeak   = "speak"   // it publishes a track
	StepPod     = "pod"     // it names its pod, which is guarded
	StepGate    = "gate"    // the pod's call-gate counts the call
	StepMetrics = "metrics" // so does the metrics API
	StepHangUp  = "hang-up" // the agent leaves after its caller
	StepFree    = "free"    // gate and metrics API no longer count the call
)

// Step is one step of a call.
type Step struct {
	Name    string        `json:"step"`
	Outcome Outcome       `json:"outcome"`
	Took    time.Duration `json:"-"`
	// Said is what was seen or, if the step failed, what is wrong and what to do.
	Said string `json:"said"`
}

// The kinds of failures. An error of Run is one of these, or that of a cancelled context.
var (
	// ErrNotTried means that there was no call: LiveKit does not answer, refuses the key, or
	// refuses the caller.
	ErrNotTried = errors.New("no call could be made")
	// ErrUnanswered means that the caller got no agent, or one that publishes nothing.
	ErrUnanswered = errors.New("the call is not answered")
	// ErrUncounted means that the call was answered, but was not counted, or was counted for
	// too long.
	ErrUncounted = errors.New("an agent answered, and the call is not counted as it should be")
)

// unchecked is why a step cannot be checked from here.
type unchecked struct{ why string }

func (u unchecked) Error() string { return u.why }

// kind returns the kind of failure of a call if a step has failed.
func kind(step string) error {
	switch step {
	case StepKey, StepDial:
		return ErrNotTried
	case StepAnswer, StepSpeak:
		return ErrUnanswered
	default:
		return ErrUncounted
	}
}
