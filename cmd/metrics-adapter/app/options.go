// SPDX-License-Identifier: Apache-2.0

// Package app puts the metrics-adapter together: flags become options, options
// become the rooms of the house, and Run starts them. It decides nothing itself.
package app

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/rooms"
)

// Options are what the flags say.
type Options struct {
	base *basecmd.AdapterBase

	livekitURL        string
	livekitURLFile    string
	livekitKeyFile    string
	livekitSecretFile string
	livekitSecretDir  string
	livekitSecretKeys string
	livekit           rooms.Settings
	allowed           []net.IPNet

	workerInterval    time.Duration
	workerTimeout     time.Duration
	workerConcurrency int

	webhookAddress string
	webhookPeers   []string

	service             string
	certificateLifetime time.Duration

	logLevel program.LogLevel
}

// NewOptions returns the defaults.
func NewOptions() *Options {
	o := &Options{
		base: &basecmd.AdapterBase{Name: "callguard-metrics-adapter", FlagSet: pflag.NewFlagSet("metrics-adapter", pflag.ContinueOnError)},
		livekit: rooms.Settings{
			Resync: 15 * time.Second, MaxStaleness: 45 * time.Second, Timeout: livekit.DefaultTimeout, Concurrency: 16, Hints: true,
		},
		workerInterval:      15 * time.Second,
		workerTimeout:       2 * time.Second,
		workerConcurrency:   32,
		webhookAddress:      ":8090",
		service:             "callguard-system/metrics-adapter",
		certificateLifetime: 7 * 24 * time.Hour,
		logLevel:            "info",
	}
	o.base.InstallFlags()
	o.base.SecureServing.BindPort = 10250              // open in every cluster that runs metrics-server
	o.base.SecureServing.ServerCert.CertDirectory = "" // a certificate is made in memory
	return o
}

// Flags returns the flags, bound to the options.
func (o *Options) Flags() *pflag.FlagSet {
	fs := o.base.Flags()
	fs.StringVar(&o.livekitURL, "livekit-url", o.livekitURL, "URL of the default LiveKit project, such as wss://livekit.example.com. Workloads may name others in an annotation.")
	fs.StringVar(&o.livekitURLFile, "livekit-url-file", o.livekitURLFile, "File with that URL instead. It may come later, with the key: until then metrics of the default project answer 503. Read again every minute.")
	fs.StringVar(&o.livekitKeyFile, "livekit-api-key-file", o.livekitKeyFile, "File with the API key of the default project. Read again every minute.")
	fs.StringVar(&o.livekitSecretFile, "livekit-api-secret-file", o.livekitSecretFile, "File with the API secret of the default project. Read again every minute.")
	fs.StringVar(&o.livekitSecretDir, "livekit-secret-dir", o.livekitSecretDir, "Folder with all three, as a mounted Secret has it, in files that --livekit-secret-keys names. They may come later: until then metrics of the default project answer 503. Read again every minute.")
	fs.StringVar(&o.livekitSecretKeys, "livekit-secret-keys", o.livekitSecretKeys, "Names of the files in that folder, such as "+call.ExampleSecretKeys+", or some of them. What is not named is url, api-key or api-secret, or LiveKit's own name for it.")
	fs.DurationVar(&o.livekit.Resync, "resync-interval", o.livekit.Resync, "The longest that a change in LiveKit goes unseen without webhooks.")
	fs.DurationVar(&o.livekit.MaxStaleness, "max-staleness", o.livekit.MaxStaleness, "Age from which a reading is not believed any more, and the metrics answer 503. A room counts as read while LiveKit's list of rooms says the same of it.")
	fs.DurationVar(&o.livekit.Timeout, "livekit-timeout", o.livekit.Timeout, "Time limit of one request to LiveKit. LiveKit itself may take 3s to say that a room's node is silent; give it more.")
	fs.IPNetSliceVar(&o.allowed, "livekit-allow-cidr", o.allowed, "Ranges of private, loopback and link-local addresses, such as 10.20.0.0/16, to which the LiveKit URLs of workloads' own Secrets may lead. By default only to Services of the workload's namespace, and to where the default project is.")
	fs.IntVar(&o.livekit.Concurrency, "livekit-concurrency", o.livekit.Concurrency, "Requests to one LiveKit project under way at once.")
	fs.IntVar(&o.livekit.RequestsPerMinute, "livekit-requests-per-minute", o.livekit.RequestsPerMinute, "Limit of requests to one LiveKit project in any minute, of this process. 0 is 300 for LiveKit Cloud, whose 1,000 two adapters and the guard share, and none for other servers until one answers 429. Within a limit, rooms whose line in LiveKit's list has changed are read first. Where it is too low for what changes, metrics answer 503 and say so.")
	fs.DurationVar(&o.workerInterval, "worker-interval", o.workerInterval, "How often each agent's GET /worker, or its gate's GET /calls, is asked.")
	fs.DurationVar(&o.workerTimeout, "worker-timeout", o.workerTimeout, "Time limit of one request to an agent or its gate.")
	fs.IntVar(&o.workerConcurrency, "worker-concurrency", o.workerConcurrency, "Requests to agents under way at once, and as many to gates.")
	fs.StringVar(&o.webhookAddress, "webhook-bind-address", o.webhookAddress, "Address that takes LiveKit's webhooks at "+rooms.WebhookPath+"; empty for none.")
	fs.StringSliceVar(&o.webhookPeers, "webhook-peers", o.webhookPeers, "host:port of the other replicas, to which webhooks are passed on. A name may stand for all replicas, this one included.")
	fs.StringVar(&o.service, "service", o.service, "namespace/name of the Service that the APIServices name, for the self-made serving certificate.")
	fs.DurationVar(&o.certificateLifetime, "certificate-lifetime", o.certificateLifetime, "Lifetime of the self-made serving certificate, used unless --tls-cert-file is given.")
	o.logLevel.AddFlag(fs)
	return fs
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
	}
	if o.livekitURL != "" || o.livekitURLFile != "" {
		if o.livekitKeyFile == "" {
			m.Wrong("livekit-api-key-file", "", "the file that holds the API key, such as /etc/livekit/api-key")
		}
		if o.livekitSecretFile == "" {
			m.Wrong("livekit-api-secret-file", "", "the file that holds the API secret, such as /etc/livekit/api-secret")
		}
	} else if o.livekitKeyFile != "" || o.livekitSecretFile != "" {
		m.Wrong("livekit-url", "", "the URL that the given key is for, such as wss://livekit.example.com")
	}
	atLeast := func(flag string, value, least time.Duration) {
		if value < least {
			m.Wrong(flag, value, fmt.Sprintf("%s or more", least))
		}
	}
	atLeast("resync-interval", o.livekit.Resync, time.Second)
	atLeast("max-staleness", o.livekit.MaxStaleness, 2*o.livekit.Resync)
	atLeast("max-staleness", o.livekit.MaxStaleness, 2*o.workerInterval)
	atLeast("livekit-timeout", o.livekit.Timeout, 100*time.Millisecond)
	atLeast("worker-interval", o.workerInterval, time.Second)
	atLeast("worker-timeout", o.workerTimeout, 100*time.Millisecond)
	atLeast("certificate-lifetime", o.certificateLifetime, time.Minute)
	if n := o.livekit.RequestsPerMinute; n != 0 && n < livekit.LeastLimit {
		m.Wrong("livekit-requests-per-minute", n, fmt.Sprintf("0, or %d or more, such as %d", livekit.LeastLimit, livekit.CloudLimit))
	}
	concurrency := func(flag string, n int) {
		if n < 1 || n > 1024 {
			m.Wrong(flag, n, "a number from 1 to 1024, such as 16")
		}
	}
	concurrency("livekit-concurrency", o.livekit.Concurrency)
	concurrency("worker-concurrency", o.workerConcurrency)
	if o.webhookAddress != "" {
		m.Address("webhook-bind-address", o.webhookAddress, "host:port such as :8090, or nothing")
	}
	for _, peer := range o.webhookPeers {
		if host, _, err := net.SplitHostPort(peer); err != nil || host == "" {
			m.Wrong("webhook-peers", peer, "host:port such as metrics-adapter-peers.callguard-system.svc:8090")
		}
	}
	if name := o.serviceName(); name.Namespace == "" || name.Name == "" {
		m.Wrong("service", o.service, "namespace/name such as callguard-system/metrics-adapter")
	}
	m.Add(o.logLevel.Validate())
	m.File("lister-kubeconfig", o.base.RemoteKubeConfigFile)
	m.File("tls-cert-file", o.base.SecureServing.ServerCert.CertKey.CertFile)
	m.File("tls-private-key-file", o.base.SecureServing.ServerCert.CertKey.KeyFile)
	m.Add(o.base.Validate()...)
	return m.Err()
}

func (o *Options) serviceName() types.NamespacedName {
	namespace, name, _ := strings.Cut(o.service, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// selfMadeCertificate says whether no certificate comes from outside.
func (o *Options) selfMadeCertificate() bool {
	cert := o.base.SecureServing.ServerCert
	return cert.CertKey.CertFile == "" && cert.CertKey.KeyFile == "" && cert.CertDirectory == ""
}

// files are where the credentials of the default project stand.
func (o *Options) files() rooms.Files {
	keys, _ := call.ParseSecretKeys(o.livekitSecretKeys) // Validate has read it
	return rooms.Files{
		URL: o.livekitURL, URLFile: o.livekitURLFile, KeyFile: o.livekitKeyFile, SecretFile: o.livekitSecretFile,
		Dir: o.livekitSecretDir, Keys: keys,
	}
}
