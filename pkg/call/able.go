// SPDX-License-Identifier: Apache-2.0

package call

import "slices"

// Ability is whether a pod can take calls, as its call-gate reports it. It is a closed
// set, so that no text from outside is passed on. It is empty if the gate did not answer.
type Ability string

// The abilities.
const (
	// Able: a worker of the pod is registered with LiveKit.
	Able Ability = "able"
	// Unsaid: the gate answers, but its version does not report the ability.
	Unsaid Ability = "unsaid"
	// Silent: the gate does not answer.
	Silent Ability = "silent"

	// The others are reasons why the pod cannot take calls.

	NoWorker    Ability = "no-worker"   // no worker has ever connected to the gate
	Registering Ability = "registering" // a worker has connected, and LiveKit has not registered it
	Refused     Ability = "refused"     // LiveKit refuses the worker's key
	NotLiveKit  Ability = "not-livekit" // the server at LiveKit's URL accepts no workers
	Unreachable Ability = "unreachable" // LiveKit cannot be reached
	Gone        Ability = "gone"        // the last worker has disconnected
	OtherwiseNo Ability = "other"       // a reason of a later version of the gate
)

// Inabilities lists the reasons why a pod cannot take calls.
func Inabilities() []Ability {
	return []Ability{NoWorker, Registering, Refused, NotLiveKit, Unreachable, Gone, OtherwiseNo}
}

// Unable reports whether the gate says that the pod cannot take calls.
func (a Ability) Unable() bool { return slices.Contains(Inabilities(), a) }
