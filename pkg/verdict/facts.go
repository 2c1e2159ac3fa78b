// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// Facts are all that a verdict rests on. What could not be read is a fact too.
type Facts struct {
	Now time.Time
	// Intent says why the pod should go and since when; zero when nobody wants it to.
	Intent call.Mark
	// Chosen says why, of several, it is this pod. Empty unless one was chosen.
	Chosen   string
	Pod      Pod
	Workload Workload
	// Readings has one entry for each of the pod's witnesses.
	Readings []Reading
	// QuietSince is the latest time at which a call may have begun, as far as is
	// known: when the draining mark was first seen, when the pod was first read, or
	// when a call was seen to begin.
	QuietSince time.Time
	// Sealed says that no call can begin any more: the gate has the order.
	Sealed bool
	// LostSince is when the pod's toleration of its unreachable node ended, whatever the
	// intent; zero where it did not.
	LostSince time.Time
	// LeaseExpired says that the node of such a pod does not report, or is gone.
	LeaseExpired bool
	// LeaseUnread is why nobody knows that; nil where it is known.
	LeaseUnread error
	Deadline    call.Deadline
	Limits      Limits
}

// CameSince says whether the pod may have come after the intent began, so that a
// replacement of it would come here, or be unwanted, too. One of the same second may
// have, unless it was seen before.
func (f Facts) CameSince() bool {
	second := f.Intent.At.Truncate(time.Second)
	return f.Intent.Intent.OfNode() && (f.Pod.Created.After(second) || f.Pod.Created.Equal(second) && !f.Pod.WasThere)
}

// Pod is what counts of the pod itself.
type Pod struct {
	State   call.State
	Created time.Time
	// WasThere says that the pod was seen before the intent was. Kubernetes dates both
	// in whole seconds, which leaves the order of the same second open.
	WasThere bool
	// Drained is when the pod was marked as draining; zero before.
	Drained time.Time
	// Running says that a regular container runs. Without one it holds no call.
	Running bool
	Ready   bool
	// InPlace says why the pod cannot be set aside; empty when it can.
	InPlace string
	// Unable says why the pod itself has long been able to take no call, and will not be
	// by itself; none where it can, or may.
	Unable Unable
}

// Workload is what counts of the pods that do the same work, whatever their
// revision: those of the pod's Deployment, StatefulSet or other top owner.
type Workload struct {
	// Desired is how many replicas its owner wants.
	Desired int
	// MinAvailable is how many must be able to take calls; Desired unless its
	// annotation says otherwise.
	MinAvailable int
	// Surge is how many replacements may be on their way at once, at least one.
	Surge int
	// Able counts the other pods that can take calls: ready and serving, and with a
	// call-gate a worker of theirs is registered with LiveKit.
	Able int
	// Coming counts the other replicas that are wanted and cannot yet.
	Coming int
	// Unable is one of those, and what keeps it; none where that is not known, or where
	// it may just be starting.
	Unable Unable
	// Aside counts the other pods that were set aside because of their nodes, and are
	// still there. Those that their owner does not want have a bound of their own.
	Aside int
	// Recreate says that its owner wants all old pods gone before any new one.
	Recreate bool
}

// Reading is what one witness says of the pod.
type Reading struct {
	call.Reading

	Witness call.Witness
	// Since is the time of the first of an unbroken row of readings that said the same.
	Since time.Time
}

// Limits are the administrator's settings.
type Limits struct {
	// Settle is how long no call may have begun before a zero is believed.
	Settle time.Duration
	// MaxHold bounds how long a pod is held once it takes no new call; zero: for ever.
	MaxHold time.Duration
	// LostQuiet is how long LiveKit must have seen no agent of a pod on a lost node.
	LostQuiet time.Duration
	// LostAfter releases a pod of a lost node whatever LiveKit says; zero: never.
	LostAfter time.Duration
}

// Floor is how many other pods must be able to take calls before the pod stops
// taking them.
//
// A pod that can be set aside has a replacement before it drains, so all that are
// desired are asked for. One that cannot is missing while it is replaced.
func Floor(intent call.Intent, w Workload, inPlace bool) int {
	switch {
	case intent == call.Orphan, w.Desired == 0, intent == call.Rollout && w.Recreate:
		return 0
	case inPlace && intent != call.ScaleDown:
		return max(0, min(w.MinAvailable, w.Desired-1))
	default:
		return min(w.MinAvailable, w.Desired)
	}
}
