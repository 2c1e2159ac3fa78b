// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"time"

	"github.com/callguard/callguard/pkg/call"
)

// Causes are the possible reasons for a pod to go, each with the time since when it
// applies; zero if it does not.
type Causes struct {
	// Marked is what the pod's own annotations say. Steps are never taken back.
	Marked call.Mark
	// Orphaned: an owner up the chain is gone or going, or a pod that is aside has none left.
	Orphaned time.Time
	// Excess: its owner has more pods than it wants, and this one was chosen.
	Excess call.Mark
	// Lost: when the pod's toleration of its unreachable node ends.
	Lost time.Time
	// Cordoned: its node takes no new pods.
	Cordoned time.Time
	// Tainted: an autoscaler tainted its node for removal, which it may take back.
	Tainted time.Time
	// Going: its node was given notice, or is being deleted. That is never taken back.
	Going time.Time
	// Candidate: when an autoscaler's mark that its node is unneeded begins to count.
	Candidate time.Time
	// Asked: an operator wants it to leave.
	Asked time.Time
	// Misfit: its DaemonSet wants no pod on its node any more.
	Misfit time.Time
	// Daemon: the pod belongs to its node, and a drain does not take it.
	Daemon bool
}

// OfNode reports whether its node is a reason, even if that does not count yet.
func (c Causes) OfNode() bool {
	return !c.Cordoned.IsZero() || !c.Tainted.IsZero() || !c.Lost.IsZero() || !c.Going.IsZero() || !c.Candidate.IsZero()
}

// Behind returns what wants the pod to go at present, besides its own mark; empty if nothing
// does. Deadlines count from when that was first seen, each kind by itself. A drain may be
// cancelled, and the pod leaves all the same. It is empty for a scale-down, because nobody
// waits for its pods, so no deadline may end their calls. It is empty for an autoscaler's
// mark, too, because no unneeded node is worth a call.
func (c Causes) Behind() string {
	switch {
	case !c.Orphaned.IsZero():
		return string(call.Orphan)
	case !c.Asked.IsZero():
		return string(call.Operator)
	case !c.Lost.IsZero():
		return string(call.LostNode)
	case !c.Cordoned.IsZero(), !c.Misfit.IsZero(), !c.Going.IsZero():
		return string(call.NodeDrain)
	case !c.Tainted.IsZero():
		return Removal
	case c.Marked.Intent == call.Rollout, c.Excess.Intent == call.Rollout:
		return string(call.Rollout)
	default:
		return ""
	}
}

// Removal is what Behind returns for an autoscaler's taint. An autoscaler that is refused
// removes its taint and tries again.
const Removal = "removal"

// Intent chooses among the causes. A pod that has begun to leave keeps the cause that its
// annotations name, unless a cause that demands less replaces it.
func Intent(c Causes, now time.Time, removalDelay time.Duration) (call.Mark, bool) {
	lost := !c.Lost.IsZero() && !now.Before(c.Lost)
	switch {
	case !c.Orphaned.IsZero():
		return call.Mark{Intent: call.Orphan, At: c.Orphaned}, true
	case c.Marked.Intent != "" && lost:
		return call.Mark{Intent: call.LostNode, At: c.Lost}, true
	case c.Marked.Intent != "":
		return c.Marked, true
	case c.Excess.Intent != "":
		return c.Excess, true
	case lost:
		return call.Mark{Intent: call.LostNode, At: c.Lost}, true
	case !c.Asked.IsZero():
		return call.Mark{Intent: call.Operator, At: c.Asked}, true
	case !c.Misfit.IsZero():
		return call.Mark{Intent: call.NodeDrain, At: c.Misfit}, true
	case !c.Going.IsZero() && !c.Daemon:
		return call.Mark{Intent: call.NodeDrain, At: c.Going}, true
	case !c.Cordoned.IsZero() && !c.Daemon:
		return call.Mark{Intent: call.NodeDrain, At: c.Cordoned}, true
	case !c.Tainted.IsZero() && !c.Daemon && !now.Before(c.Tainted.Add(removalDelay)):
		return call.Mark{Intent: call.NodeDrain, At: c.Tainted}, true
	case !c.Candidate.IsZero() && !c.Daemon && !now.Before(c.Candidate):
		return call.Mark{Intent: call.NodeDrain, At: c.Candidate}, true
	default:
		return call.Mark{}, false
	}
}
