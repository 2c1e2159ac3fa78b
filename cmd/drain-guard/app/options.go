// SPDX-License-Identifier: Apache-2.0

// Package app puts the drain-guard together: flags become options, options become
// the rooms of the house, and Main starts them. It decides nothing itself.
package app

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/leader"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/rooms"
)

// Options are what the flags say.
type Options struct {
	kubeconfig  string
	doors       manifests.Values
	leaderElect bool
	bindAddress string
	logLevel    program.LogLevel

	livekitURL        string
	livekitURLFile    string
	livekitKeyFile    string
	livekitSecretFile string
	livekitSecretDir  string
	livekitSecretKeys string
	livekit           rooms.Settings
	allowed           []net.IPNet
	witnessTimeout    time.Duration

	guard         guard.Settings
	deletionCosts string
}

// The values of --deletion-cost.
const (
	costsAuto = "auto"
	costsOff  = "off"
)

// NewOptions returns the defaults.
func NewOptions() *Options {
	doors := manifests.DefaultValues()
	doors.Namespace = cmp.Or(os.Getenv("POD_NAMESPACE"), doors.Namespace)
	return &Options{
		doors:       doors,
		leaderElect: true,
		bindAddress: ":8080",
		logLevel:    "info",
		livekit: rooms.Settings{
			Resync: 3 * time.Second, MaxStaleness: 15 * time.Second, Timeout: livekit.DefaultTimeout, Concurrency: 16,
		},
		witnessTimeout: 2 * time.Second,
		guard:          guard.DefaultSettings(),
		deletionCosts:  costsAuto,
	}
}

// Flags returns the flags, bound to the options.
func (o *Options) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("drain-guard", pflag.ContinueOnError)
	o.clusterFlags(fs)
	guard.AddFlags(fs, &o.guard, &o.doors)
	fs.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "Lead only while holding the lease "+leader.LeaseName+".")
	fs.StringVar(&o.bindAddress, "bind-address", o.bindAddress, "Address of /metrics, /healthz and /readyz.")
	fs.StringVar(&o.livekitURL, "livekit-url", o.livekitURL, "URL of the default LiveKit project, such as wss://livekit.example.com. Workloads may name others in an annotation.")
	fs.StringVar(&o.livekitURLFile, "livekit-url-file", o.livekitURLFile, "File with that URL instead. It may come later, with the key: until then pods of the default project are held.")
	fs.StringVar(&o.livekitKeyFile, "livekit-api-key-file", o.livekitKeyFile, "File with the API key of the default project.")
	fs.StringVar(&o.livekitSecretFile, "livekit-api-secret-file", o.livekitSecretFile, "File with the API secret of the default project.")
	fs.StringVar(&o.livekitSecretDir, "livekit-secret-dir", o.livekitSecretDir, "Folder with all three, as a mounted Secret has it, in files that --livekit-secret-keys names. They may come later: until then pods of the default project are held.")
	fs.StringVar(&o.livekitSecretKeys, "livekit-secret-keys", o.livekitSecretKeys, "Names of the files in that folder, such as "+call.ExampleSecretKeys+", or some of them. What is not named is url, api-key or api-secret, or LiveKit's own name for it.")
	fs.DurationVar(&o.livekit.Resync, "resync-interval", o.livekit.Resync, "The longest that a change in LiveKit goes unseen while a pod is to go. LiveKit is not read otherwise.")
	fs.DurationVar(&o.livekit.MaxStaleness, "max-staleness", o.livekit.MaxStaleness, "Age from which what LiveKit said is not believed any more. Where --livekit-requests-per-minute makes reading all rooms take longer, it is twice as long as that takes.")
	fs.DurationVar(&o.livekit.Timeout, "livekit-timeout", o.livekit.Timeout, "Time limit of one request to LiveKit. LiveKit itself may take 3s to say that a room's node is silent; give it more.")
	fs.IPNetSliceVar(&o.allowed, "livekit-allow-cidr", o.allowed, "Ranges of private, loopback and link-local addresses, such as 10.20.0.0/16, to which the LiveKit URLs of workloads' own Secrets may lead. By default only to Services of the workload's namespace, and to where the default project is.")
	fs.IntVar(&o.livekit.Concurrency, "livekit-concurrency", o.livekit.Concurrency, "Requests to one LiveKit project under way at once.")
	fs.IntVar(&o.livekit.RequestsPerMinute, "livekit-requests-per-minute", o.livekit.RequestsPerMinute, "Limit of requests to one LiveKit project in any minute, of this process. 0 is 300 for LiveKit Cloud, whose 1,000 two adapters and the guard share, and none for other servers until one answers 429. The guard reads every room before it believes a zero, so a low limit makes a drain take longer.")
	fs.DurationVar(&o.witnessTimeout, "witness-timeout", o.witnessTimeout, "Time limit of one request to a pod.")
	fs.StringVar(&o.deletionCosts, "deletion-cost", o.deletionCosts, "auto: pods that leave are marked as the first to be deleted, and without the doors all pods by their calls. off: never.")
	return fs
}

// clusterFlags are those of unlock, too.
func (o *Options) clusterFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.kubeconfig, "kubeconfig", o.kubeconfig, "Kubeconfig; in a pod none is needed.")
	fs.StringVar(&o.doors.Namespace, "namespace", o.doors.Namespace, "Namespace of the guard and of its lease; by default what POD_NAMESPACE says.")
	o.logLevel.AddFlag(fs)
}

// Validate reports every mistake at once, each with a value that would work.
func (o *Options) Validate() error {
	var m program.Mistakes
	m.Add(o.files().Validate(o.livekitSecretKeys))
	if o.livekitURL != "" && o.livekitURLFile != "" {
		m.Wrong("livekit-url-file", o.livekitURLFile, "either this or --livekit-url")
	}
	if o.livekitURL != "" {
		if err := livekit.ValidateURL(o.livekitURL); err != nil {
			m.Add(fmt.Errorf("--livekit-url: %w", err))
		}
		for _, file := range []struct{ flag, path string }{{"livekit-api-key-file", o.livekitKeyFile}, {"livekit-api-secret-file", o.livekitSecretFile}} {
			if _, err := os.Stat(file.path); err != nil {
				m.Wrong(file.flag, file.path, "a file that is there, such as /etc/livekit/api-key")
			}
		}
	}
	positive := func(flag string, d time.Duration) {
		if d <= 0 {
			m.Wrong(flag, d, "a duration above zero, such as 2s")
		}
	}
	positive("resync-interval", o.livekit.Resync)
	positive("livekit-timeout", o.livekit.Timeout)
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
	notNegative("release-patience", o.guard.ReleasePatience)
	if o.livekit.MaxStaleness < o.livekit.Resync {
		m.Wrong("max-staleness", o.livekit.MaxStaleness, "--resync-interval or more, such as "+max(5*o.livekit.Resync, time.Second).String())
	}
	if n := o.livekit.RequestsPerMinute; n != 0 && n < livekit.LeastLimit {
		m.Wrong("livekit-requests-per-minute", n, fmt.Sprintf("0, or %d or more, such as %d", livekit.LeastLimit, livekit.CloudLimit))
	}
	if o.livekit.Concurrency < 1 {
		m.Wrong("livekit-concurrency", o.livekit.Concurrency, "1 or more, such as 16")
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

// files are where the credentials of the default project stand.
func (o *Options) files() rooms.Files {
	keys, _ := call.ParseSecretKeys(o.livekitSecretKeys) // Validate has read it
	return rooms.Files{
		URL: o.livekitURL, URLFile: o.livekitURLFile, KeyFile: o.livekitKeyFile, SecretFile: o.livekitSecretFile,
		Dir: o.livekitSecretDir, Keys: keys,
	}
}
