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
	// Since is when it was first seen that the pod should go, as it has had to since.
	Since time.Time
	// Standing is the same of what stands behind that (Causes.Behind): zero once a drain
	// was cancelled, and dated anew when it is taken up again. Deadlines count from it.
	Standing time.Time
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
	// Notice is what says that the pod's node goes within minutes, whatever is on it; empty
	// where nothing does.
	Notice string
	// NodeEnds is when the pod's node is ended whatever is on it, as its autoscaler says; zero
	// where it does not.
	NodeEnds time.Time
	// LetGoBy is when the pod has to be let go for that; zero where the administrator wants
	// calls to have the last word.
	LetGoBy  time.Time
	Deadline call.Deadline
	Limits   Limits
}

// Idle reports whether the pod is known to hold no call now. One that takes calls may
// hold one the next moment.
func (f Facts) Idle() bool {
	for _, r := range f.Readings {
		if n, known := r.Calls(); !known || n > 0 {
			return false
		}
	}
	return !f.Pod.Running || len(f.Readings) > 0
}

// Overdue says which deadline of the pod is over; empty where none is. The team's own
// deadline counts beside the administrator's.
func (f Facts) Overdue() string {
	if f.Standing.IsZero() {
		return ""
	}
	held := f.Now.Sub(f.Standing)
	switch {
	case f.Limits.MaxHold > 0 && held >= f.Limits.MaxHold:
		return "it was held for as long as --max-hold allows"
	case f.Deadline.Release && f.Deadline.After > 0 && held >= f.Deadline.After:
		return "its own callguard.dev/drain-deadline has passed"
	case !f.LetGoBy.IsZero() && !f.Now.Before(f.LetGoBy):
		return "its node is about to end (--node-termination-limit)"
	default:
		return ""
	}
}

// Floor is how many others must be able to take calls before the pod stops taking them. On
// a node that goes within minutes a new call would be cut, so one other is enough.
func (f Facts) Floor() int {
	floor := Floor(f.Intent.Intent, f.Workload, f.Pod.InPlace != "")
	if f.Notice != "" {
		floor = min(floor, 1)
	}
	return floor
}

// Pod is what counts of the pod itself.
type Pod struct {
	State call.State
	// CameSince says that the pod was first seen after what wants it to go, and that
	// its replacement would come to the same place.
	CameSince bool
	// DrainingSince is when the pod was first seen to be marked as draining; zero before.
	DrainingSince time.Time
	// Running says that a container runs that may hold calls.
	Running bool
	Ready   bool
	// UnreadySince is when the pod was first seen not to be ready, and has not been since
	// without a break; zero while it is.
	UnreadySince time.Time
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
	// MaxUnavailable is how many replicas its owner does without during a rollout.
	MaxUnavailable int
	// Arrived is when the latest of the others that can take calls was first seen.
	Arrived time.Time
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
	// Leaving counts those of Aside that take calls until they drain, on nodes that do not
	// go before their calls.
	Leaving int
	// Recreate says that its owner wants all old pods gone before any new one.
	Recreate bool
}

// TakeCalls counts the other pods that take calls now. One that is set aside does until it
// drains: of four of which two replacements have come, two may drain.
func (w Workload) TakeCalls() int { return w.Able + w.Leaving }

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
	// MaxHold bounds how long a pod is held that something wants to go; zero: forever.
	MaxHold time.Duration
	// ReplacementWait is how long an idle pod waits for others that take calls in its
	// place; zero: it does not.
	ReplacementWait time.Duration
	// LostQuiet is how long LiveKit must have seen no agent of a pod on a lost node.
	LostQuiet time.Duration
	// LostAfter releases a pod of a lost node whatever LiveKit says; zero: never.
	LostAfter time.Duration
	// NodeEnds has a pod let go, with its calls, in time for what an autoscaler has as the end
	// of its node.
	NodeEnds bool
}

// Floor is how many other pods must be able to take calls before the pod stops
// taking them.
//
// A pod that can be set aside has a replacement before it drains, so all that are
// desired are asked for, but for those that the owner itself does without during a
// rollout. One that cannot is missing while it is replaced.
func Floor(intent call.Intent, w Workload, inPlace bool) int {
	missing := 0
	switch {
	case intent == call.Orphan, w.Desired == 0, intent == call.Rollout && w.Recreate:
		return 0
	case intent == call.Rollout && inPlace:
		missing = max(1, w.MaxUnavailable)
	case intent == call.Rollout:
		missing = w.MaxUnavailable
	case inPlace && intent != call.ScaleDown:
		missing = 1
	}
	return max(0, min(w.MinAvailable, w.Desired-missing))
}
