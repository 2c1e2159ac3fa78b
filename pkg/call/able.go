// SPDX-License-Identifier: Apache-2.0

package call

import "slices"

// Ability is whether a pod can take calls, as its call-gate says: a closed set, so that
// no text of others travels with it. The empty one is that of a gate that did not answer.
type Ability string

// The abilities.
const (
	// Able: a worker of the pod is registered with LiveKit.
	Able Ability = "able"
	// Unsaid: the gate answers, and is of a version that does not say.
	Unsaid Ability = "unsaid"
	// Silent: the gate does not answer.
	Silent Ability = "silent"

	// The others say why the pod can take no call.

	NoWorker    Ability = "no-worker"   // no worker has ever come to the gate
	Registering Ability = "registering" // one has, and LiveKit has not registered it
	Refused     Ability = "refused"     // LiveKit refuses the worker's key
	NotLiveKit  Ability = "not-livekit" // what answers at LiveKit's URL takes no workers
	Unreachable Ability = "unreachable" // LiveKit cannot be reached
	Gone        Ability = "gone"        // the last worker has gone
	OtherwiseNo Ability = "other"       // a gate of a later version has another reason
)

// Inabilities lists why a pod can take no call.
func Inabilities() []Ability {
	return []Ability{NoWorker, Registering, Refused, NotLiveKit, Unreachable, Gone, OtherwiseNo}
}

// Unable reports whether the gate says that the pod can take no call.
func (a Ability) Unable() bool { return slices.Contains(Inabilities(), a) }
