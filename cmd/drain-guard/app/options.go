// SPDX-License-Identifier: Apache-2.0

// Package app is the program drain-guard: it turns flags into options, creates the parts of
// the program from them, and starts these. It decides nothing itself.
package app

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/cmd/internal/project"
	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/witness/rooms"
)

// Options are the values of the flags.
type Options struct {
	kubeconfig  string
	doors       manifests.Values
	leaderElect bool
	bindAddress string
	logLevel    program.LogLevel

	livekit        project.Options
	witnessTimeout time.Duration

	guard         guard.Settings
	deletionCosts string
}

// The values of --deletion-cost.
const (
	costsAuto = "auto"
	costsOff  = "off"
)

// NewOptions returns the default options.
func NewOptions() *Options {
	doors := manifests.DefaultValues()
	doors.Namespace = cmp.Or(os.Getenv("POD_NAMESPACE"), doors.Namespace)
	return &Options{
		doors:       doors,
		leaderElect: true,
		bindAddress: ":8080",
		logLevel:    "info",
		livekit: project.Options{Rooms: rooms.Settings{
			Resync: 3 * time.Second, MaxStaleness: 15 * time.Second, Timeout: livekit.DefaultTimeout, Concurrency: 16, Share: project.GuardShare,
		}},
		witnessTimeout: 2 * time.Second,
		guard:          guard.DefaultSettings(),
		deletionCosts:  costsAuto,
	}
}

// Flags returns the flags, bound to the options.
func (o *Options) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet(call.GuardName, pflag.ContinueOnError)
	o.clusterFlags(fs)
	guard.AddFlags(fs, &o.guard, &o.doors)
	fs.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "Act only while holding the lease "+leader.LeaseName+".")
	fs.StringVar(&o.bindAddress, "bind-address", o.bindAddress, "Address of /metrics, /healthz and /readyz.")
	o.livekit.AddFlags(fs, project.Meaning{
		Until:        "pods of the default project are held",
		Resync:       "Poll interval of LiveKit while a pod is leaving and its call-gate, if it has one, counts no calls. At other times LiveKit is polled rarely or not at all.",
		MaxStaleness: "LiveKit data older than this is treated as unknown. If --livekit-requests-per-minute makes reading all rooms take longer, twice that duration applies.",
		Limit:        "drain-guard reads every room before it accepts a zero, so a low limit slows drains down.",
	})
	fs.DurationVar(&o.witnessTimeout, "witness-timeout", o.witnessTimeout, "Time limit of one request to a pod.")
	fs.StringVar(&o.deletionCosts, "deletion-cost", o.deletionCosts, "Whether annotation controller.kubernetes.io/pod-deletion-cost is set. auto: on leaving pods, so that they are deleted first; without the admission policies, on all pods, by their number of calls. off: never.")
	return fs
}

// clusterFlags adds the flags that command unlock has, too.
func (o *Options) clusterFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.kubeconfig, "kubeconfig", o.kubeconfig, "Path to a kubeconfig; defaults to the in-cluster configuration.")
	fs.StringVar(&o.doors.Namespace, "namespace", o.doors.Namespace, "Namespace of drain-guard and its lease; defaults to $POD_NAMESPACE.")
	o.logLevel.AddFlag(fs)
}

// Validate reports all mistakes, each with a value that would work.
func (o *Options) Validate() error {
	var m program.Mistakes
	o.livekit.Validate(&m)
	positive := func(flag string, d time.Duration) {
		if d <= 0 {
			m.Wrong(flag, d, "a duration above zero, such as 2s")
		}
	}
	positive("witness-timeout", o.witnessTimeout)
	positive("read-interval", o.guard.ReadEvery)
	positive("agent-drain-timeout", o.guard.AgentDrainTimeout)
	notNegative := func(flag string, d time.Duration) {
		if d < 0 {
			m.Wrong(flag, d, "zero or more, such as 20s")
		}
	}
	notNegative("settle", o.guard.Limits.Settle)
	notNegative("max-hold", o.guard.Limits.MaxHold)
	notNegative("replacement-wait", o.guard.Limits.ReplacementWait)
	notNegative("lost-node-quiet", o.guard.Limits.LostQuiet)
	notNegative("lost-node-release-after", o.guard.Limits.LostAfter)
	notNegative("removal-taint-delay", o.guard.RemovalDelay)
	notNegative("candidate-delay", o.guard.CandidateDelay)
	notNegative("release-patience", o.guard.ReleasePatience)
	for _, name := range o.guard.Owners {
		if _, ok := guard.ParseOwner(name); !ok {
			m.Wrong("owners", name, "a resource and its group, such as rollouts.argoproj.io")
		}
	}
	if !slices.Contains(verdict.Orders(), o.guard.Leavers) {
		m.Wrong("leavers", o.guard.Leavers, fmt.Sprintf("%s or %s", verdict.Packed, verdict.FewestCalls))
	}
	if o.deletionCosts != costsAuto && o.deletionCosts != costsOff {
		m.Wrong("deletion-cost", o.deletionCosts, costsAuto+" or "+costsOff)
	}
	m.Address("bind-address", o.bindAddress, "an address with a port, such as :8080")
	if o.doors.Namespace == "" {
		m.Wrong("namespace", o.doors.Namespace, "the namespace of the guard, such as "+manifests.DefaultNamespace)
	}
	m.Add(o.logLevel.Validate())
	return m.Err()
}
