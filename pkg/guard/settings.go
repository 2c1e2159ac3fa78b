// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/verdict"
)

// Settings are the administrator's settings.
type Settings struct {
	Limits verdict.Limits
	// ReadEvery is how often the witnesses of a pod are asked while it should go.
	ReadEvery time.Duration
	// RemovalDelay is how long a node must have had an autoscaler's removal taint before its
	// pods should go.
	RemovalDelay time.Duration
	// CandidateDelay is how long Cluster Autoscaler must have marked a node as unneeded before
	// its pods should go.
	CandidateDelay time.Duration
	// ReleasePatience is how long a released pod is left for whoever drains its node, before
	// the guard deletes it. kubectl drain evicts by name, every 5 s: if the guard were faster,
	// it would find the next pod of that name, as a StatefulSet makes one at once, and try to
	// evict that one for ever.
	ReleasePatience time.Duration
	// AgentDrainTimeout is how long an agent may take to finish its calls after SIGTERM. A
	// shorter termination grace period causes an Event.
	AgentDrainTimeout time.Duration
	// Leavers is the order in which pods go if there are too many.
	Leavers verdict.Order
	// Owners are further kinds of owners to follow, as resource.group.
	Owners []string
	// DeletionCosts has pods that leave marked as the first to be deleted; and while
	// the doors are not in force, the others by the calls they hold.
	DeletionCosts bool
}

// DefaultSettings returns the settings of a guard without flags.
func DefaultSettings() Settings {
	return Settings{
		Limits: verdict.Limits{
			Settle:    20 * time.Second,
			LostQuiet: time.Minute,
			// Node autoscalers wait 15 minutes for a node before they try another group.
			ReplacementWait: 20 * time.Minute,
		},
		ReadEvery:         time.Second,
		RemovalDelay:      30 * time.Second,
		CandidateDelay:    5 * time.Minute,
		ReleasePatience:   10 * time.Second,
		AgentDrainTimeout: time.Hour,
		Leavers:           verdict.Packed,
		DeletionCosts:     true,
	}
}

// AddFlags adds the flags of these settings and of the admission policies. The guard uses
// them, and so does the plugin, which reads the guard's command line.
func AddFlags(fs *pflag.FlagSet, s *Settings, doors *manifests.Values) {
	fs.StringVar(&doors.BreakGlassGroup, "break-glass-group", doors.BreakGlassGroup, "Group whose members may delete locked pods, as configured in the chart.")
	fs.Int32Var(&doors.Priority, "priority", doors.Priority, "Value of PriorityClass callguard-calls, as configured in the chart.")
	fs.StringVar(&doors.Account, "service-account", doors.Account, "Service account of drain-guard, as configured in the chart. The admission policies exempt it.")
	fs.DurationVar(&s.ReadEvery, "read-interval", s.ReadEvery, "Poll interval of the calls of a pod that should leave.")
	fs.DurationVar(&s.Limits.Settle, "settle", s.Limits.Settle, "Minimum time without a new call before a draining pod without call-gate counts as idle.")
	fs.DurationVar(&s.Limits.MaxHold, "max-hold", s.Limits.MaxHold, "Maximum time a leaving pod is kept for its calls; 0 means no limit. Counted from when drain-guard first sees that the pod should leave, and again from zero after a cancelled drain. Never applies to scale-downs. Also limits callguard.dev/drain-deadline.")
	fs.DurationVar(&s.Limits.ReplacementWait, "replacement-wait", s.Limits.ReplacementWait, "Maximum time an idle pod waits for replacement pods that can take calls; 0 means it does not wait.")
	fs.DurationVar(&s.Limits.LostQuiet, "lost-node-quiet", s.Limits.LostQuiet, "How long LiveKit must report no agent for a pod on an unreachable node before the pod is released.")
	fs.DurationVar(&s.Limits.LostAfter, "lost-node-release-after", s.Limits.LostAfter, "Release a pod of a lost node after this time, whatever LiveKit says; 0 means never.")
	fs.DurationVar(&s.RemovalDelay, "removal-taint-delay", s.RemovalDelay, "How long an autoscaler's removal taint must be on a node before its pods are asked to leave.")
	fs.DurationVar(&s.CandidateDelay, "candidate-delay", s.CandidateDelay, "How long a node must have Cluster Autoscaler's taint DeletionCandidateOfClusterAutoscaler before its pods are asked to leave. Keep it below the autoscaler's --scale-down-unneeded-time. The taint never ends a call.")
	fs.BoolVar(&s.Limits.NodeEnds, "node-termination-limit", s.Limits.NodeEnds, "Release a pod, with its calls, before Karpenter's terminationGracePeriod ends its node, early enough for the pod's own termination grace period. By default the node waits for calls.")
	fs.DurationVar(&s.ReleasePatience, "release-patience", s.ReleasePatience, "How long a released pod may still be evicted by the drain of its node, before drain-guard deletes it. kubectl drain retries every 5 s, by name: with less than that, a drain does not end whose pods get the same name again, as those of a StatefulSet.")
	fs.StringVar((*string)(&s.Leavers), "leavers", string(s.Leavers), "Which pods leave in a scale-down. packed: those on the nodes with the fewest guarded pods that stay, so that nodes become empty. fewest-calls: those with the fewest calls, on any node.")
	fs.StringSliceVar(&s.Owners, "owners", s.Owners, "Further owners of pods to follow in scale-downs and rollouts, as resource.group: rollouts.argoproj.io,clonesets.apps.kruise.io. Each needs a scale subresource, and drain-guard's account the right to get, list and watch it.")
	fs.DurationVar(&s.AgentDrainTimeout, "agent-drain-timeout", s.AgentDrainTimeout, "drain_timeout of your agents. Pods with a shorter terminationGracePeriodSeconds get a warning Event.")
}
