// SPDX-License-Identifier: Apache-2.0

package trycall

import (
	"errors"
	"time"
)

// Outcome is what became of a step.
type Outcome string

// The outcomes.
const (
	Done   Outcome = "OK"
	Failed Outcome = "FAIL"
	// Unchecked is a step about which nothing can be said from here.
	Unchecked Outcome = "?"
)

// The steps, in their order.
const (
	StepKey     = "key"     // LiveKit answers, and takes the key
	StepDial    = "dial"    // the caller is in a room of its own, with media
	StepAnswer  = "answer"  // an agent is there
	StepSpeak   = "speak"   // it publishes a track
	StepPod     = "pod"     // it names its pod, which is a guarded one
	StepGate    = "gate"    // the pod's call-gate counts the call
	StepMetrics = "metrics" // so does the metrics API
	StepHangUp  = "hang-up" // the agent leaves after its caller
	StepFree    = "free"    // gate and metrics API count the call no more
)

// Step is one step of a call.
type Step struct {
	Name    string        `json:"step"`
	Outcome Outcome       `json:"outcome"`
	Took    time.Duration `json:"-"`
	// Said is what was seen; of a step that failed what is wrong, and what to do.
	Said string `json:"said"`
}

// The ways in which a call fails. An error of Run is one of them, or that of a context
// that was cancelled.
var (
	// ErrNotTried says that there was no call: LiveKit does not answer, refuses the key, or
	// lets no caller in.
	ErrNotTried = errors.New("no call could be made")
	// ErrUnanswered says that a caller gets no agent, or one that says nothing.
	ErrUnanswered = errors.New("the call is not answered")
	// ErrUncounted says that the call was answered, and that a drain or an autoscaler
	// would not know of it, or would know of it for too long.
	ErrUncounted = errors.New("an agent answered, and the call is not counted as it should be")
)

// unchecked says why nothing can be said of a step from here.
type unchecked struct{ why string }

func (u unchecked) Error() string { return u.why }

// kind is in what way a call has failed when a step has.
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
