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
	// Since is when it was first seen that the pod should go, without a break since.
	Since time.Time
	// Standing is the same for what is behind that (Causes.Behind): zero once a drain
	// was cancelled, and set again when the drain is resumed. Deadlines count from it.
	Standing time.Time
	// Chosen is why this pod was chosen among several; empty if there was no
	// choice.
	Chosen   string
	Pod      Pod
	Workload Workload
	// Readings has one entry for each of the pod's witnesses.
	Readings []Reading
	// QuietSince is the latest time at which a call may have begun, as far as is
	// known: when the draining mark was first seen, when the pod was first read, or
	// when a call was seen to begin.
	QuietSince time.Time
	// Sealed reports that no call can begin any more, because the gate has the
	// order to drain.
	Sealed bool
	// LostSince is when the pod's toleration of its unreachable node ended, whatever the
	// intent; zero if it has not.
	LostSince time.Time
	// LeaseExpired reports that the node of such a pod does not renew its lease,
	// or is gone.
	LeaseExpired bool
	// LeaseUnread is why that is unknown; nil if it is known.
	LeaseUnread error
	// Notice is the taint or condition that announces that the pod's node ends within
	// minutes, whatever runs on it; empty if there is none.
	Notice string
	// NodeEnds is when its autoscaler ends the pod's node, whatever runs on it; zero if it has
	// announced no time.
	NodeEnds time.Time
	// LetGoBy is when the pod has to be released because of that; zero if, by the
	// administrator's choice, the node waits for calls.
	LetGoBy  time.Time
	Deadline call.Deadline
	Limits   Limits
}

// Idle reports whether the pod is known to hold no call now. A pod that takes calls
// may hold one the next moment.
func (f Facts) Idle() bool {
	for _, r := range f.Readings {
		if n, known := r.Calls(); !known || n > 0 {
			return false
		}
	}
	return !f.Pod.Running || len(f.Readings) > 0
}

// Overdue returns which deadline of the pod has passed; empty if none has. Both the
// team's deadline and the administrator's count.
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

// Floor returns how many others must be able to take calls before the pod stops taking
// them. On a node that goes within minutes a new call would be cut, so one other is
// enough.
func (f Facts) Floor() int {
	floor := Floor(f.Intent.Intent, f.Workload, f.Pod.InPlace != "")
	if f.Notice != "" {
		floor = min(floor, 1)
	}
	return floor
}

// Pod holds the facts about the pod itself.
type Pod struct {
	State call.State
	// CameSince reports that the pod was first seen after the reason for it to go,
	// so that its replacement would come to the same place.
	CameSince bool
	// DrainingSince is when the pod was first seen to be marked as draining; zero before.
	DrainingSince time.Time
	// Running reports whether a container runs that may hold calls.
	Running bool
	Ready   bool
	// UnreadySince is since when the pod has not been ready, without a break; zero while
	// it is ready.
	UnreadySince time.Time
	// InPlace is why the pod cannot be set aside; empty if it can.
	InPlace string
	// Unable is why the pod itself has been unable to take calls for long, and will stay
	// so unless somebody acts; zero if it can take calls, or may soon.
	Unable Unable
}

// Workload holds the facts about the pods that do the same work, whatever
// their revision: those of the pod's Deployment, StatefulSet or other top
// owner.
type Workload struct {
	// Desired is how many replicas its owner wants.
	Desired int
	// MinAvailable is how many must be able to take calls; Desired unless its
	// annotation says otherwise.
	MinAvailable int
	// Surge is how many replacements may be starting at the same time, at least
	// one.
	Surge int
	// MaxUnavailable is how many replicas may be missing during a rollout, by its
	// owner's setting.
	MaxUnavailable int
	// Arrived is when the latest of the others that can take calls was first seen.
	Arrived time.Time
	// Able counts the other pods that can take calls: they are ready and serving
	// and, if they have a call-gate, a worker of theirs is registered with LiveKit.
	Able int
	// Coming counts the other wanted replicas that cannot take calls yet.
	Coming int
	// Unable is why one of those cannot; zero if that is not known, or if it may just
	// be starting.
	Unable Unable
	// Aside counts the other pods that were set aside because of their nodes, and are
	// still there. Pods that their owner does not want are limited by its own
	// numbers.
	Aside int
	// Leaving counts those of Aside that take calls until they drain, on nodes that stay
	// until their calls have ended.
	Leaving int
	// Recreate reports that its owner wants all old pods gone before it creates a
	// new one.
	Recreate bool
}

// TakeCalls counts the other pods that take calls now, including those that are set aside
// and do not drain yet: if four pods are set aside and two replacements are ready, two may
// drain.
func (w Workload) TakeCalls() int { return w.Able + w.Leaving }

// Reading is what one witness says of the pod.
type Reading struct {
	call.Reading

	Witness call.Witness
	// Since is the time of the first of an unbroken series of equal readings.
	Since time.Time
}

// Limits are the administrator's settings.
type Limits struct {
	// Settle is the minimum time without a new call before a zero is believed.
	Settle time.Duration
	// MaxHold is the maximum time that a pod which should go is held; zero means no
	// limit.
	MaxHold time.Duration
	// ReplacementWait is the maximum time that an idle pod waits for others that take
	// calls in its place; zero means that it does not wait.
	ReplacementWait time.Duration
	// LostQuiet is how long LiveKit must report no agent of a pod on a lost node
	// before the pod is released.
	LostQuiet time.Duration
	// LostAfter is when a pod of a lost node is released whatever LiveKit says;
	// zero means never.
	LostAfter time.Duration
	// NodeEnds has a pod released, with its calls, before its autoscaler ends the node.
	NodeEnds bool
}

// Floor returns how many other pods must be able to take calls before the pod
// stops taking them.
//
// A pod that can be set aside has a replacement before it drains, so all desired
// replicas are required, except those that the owner allows to be missing during a
// rollout. A pod that cannot be set aside is missing while it is replaced.
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
