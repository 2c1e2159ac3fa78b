// SPDX-License-Identifier: Apache-2.0

package verdict

import "github.com/callguard/callguard/pkg/call"

// Unable is a pod that cannot take calls, and why. The zero value stands for none.
type Unable struct {
	Pod string
	// Secret is where its LiveKit key comes from, as namespace/name; empty if that is not
	// known.
	Secret string
	Why    call.Ability
}

// Sentence returns why, and what to check. Of the pod's own answer it contains only a word
// of a closed set.
func (u Unable) Sentence() string {
	switch {
	case u.Why == call.Refused && u.Secret != "":
		return "LiveKit refuses the key of Secret " + u.Secret + " (pod " + u.Pod + ")"
	case u.Why == call.Refused:
		return "LiveKit refuses the key of pod " + u.Pod
	case u.Why == call.NotLiveKit:
		return "what answers at the LIVEKIT_URL of call-gate of pod " + u.Pod + " accepts no workers"
	case u.Why == call.Unreachable:
		return "call-gate of pod " + u.Pod + " cannot reach LiveKit"
	case u.Why == call.NoWorker:
		return "no worker has ever connected to call-gate of pod " + u.Pod + "; check its LIVEKIT_URL and proxy settings"
	case u.Why == call.Registering:
		return "LiveKit does not register the worker of pod " + u.Pod
	case u.Why == call.Gone:
		return "the worker of pod " + u.Pod + " has gone from LiveKit"
	case u.Why == call.Silent:
		return "call-gate of pod " + u.Pod + " does not answer"
	default:
		return "call-gate of pod " + u.Pod + " says that it can take no call"
	}
}
