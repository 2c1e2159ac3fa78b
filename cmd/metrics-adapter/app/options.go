// SPDX-License-Identifier: Apache-2.0

// Package app is the program metrics-adapter: it turns flags into options, creates the
// parts of the program from them, and starts these. It decides nothing itself.
package app

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/cmd/internal/project"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/rooms"
)

// rightsFor is how long a right to read metrics is cached, so that it may outlive its
// withdrawal: numbers of calls are not secret enough to check the right for every read.
const rightsFor = time.Minute

// waitAfter is how long a caller has been without an agent before the call may count as
// waiting: by then an agent that was sent is in the room, or LiveKit reports that it was
// sent.
const waitAfter = 3 * time.Second

// maxReplicas is more than anybody runs.
const maxReplicas = 100

// Options are the values of the flags.
type Options struct {
	base *basecmd.AdapterBase

	livekit project.Options

	podInterval       time.Duration
	workerTimeout     time.Duration
	workerConcurrency int

	webhookAddress string
	webhookPeers   []string

	replicas        int
	replicasService string

	service             string
	certificateLifetime time.Duration

	compose compose
	keda    keda

	logLevel program.LogLevel
}

// NewOptions returns the default options.
func NewOptions() *Options {
	o := &Options{
		base: &basecmd.AdapterBase{Name: "callguard-metrics-adapter", FlagSet: pflag.NewFlagSet("metrics-adapter", pflag.ContinueOnError)},
		livekit: project.Options{Rooms: rooms.Settings{
			Resync: 15 * time.Second, MaxStaleness: 45 * time.Second, Timeout: livekit.DefaultTimeout, Concurrency: 16, Hints: true, Share: project.AdapterShare, WaitAfter: waitAfter,
		}},
		podInterval:         15 * time.Second,
		workerTimeout:       2 * time.Second,
		workerConcurrency:   32,
		webhookAddress:      ":8090",
		replicas:            2,
		service:             "callguard-system/metrics-adapter",
		certificateLifetime: 7 * 24 * time.Hour,
		compose:             newCompose(),
		logLevel:            "info",
	}
	o.base.InstallFlags()
	o.base.SecureServing.BindPort = 10250              // open in every cluster that runs metrics-server
	o.base.SecureServing.ServerCert.CertDirectory = "" // the certificate is created in memory
	o.base.Authorization.AllowCacheTTL = rightsFor
	return o
}

// Flags returns the flags, bound to the options.
func (o *Options) Flags() *pflag.FlagSet {
	fs := o.base.Flags()
	o.livekit.AddFlags(fs, project.Meaning{
		Until:        "metrics of the default project answer 503",
		Resync:       "Poll interval of LiveKit. With webhooks, changes are seen at once.",
		MaxStaleness: "Readings older than this are treated as unknown, and metrics that need them answer 503. A room stays up to date while LiveKit's list of rooms shows no change in it.",
		Limit:        "With a limit, rooms that changed in LiveKit's list are read first. If the limit is too low, metrics answer 503 with that reason.",
	})
	fs.DurationVar(&o.podInterval, "pod-interval", o.podInterval, "Poll interval of each pod: of its call-gate, or of GET /worker of its agent.")
	fs.DurationVar(&o.workerTimeout, "worker-timeout", o.workerTimeout, "Time limit of one request to an agent or its gate.")
	fs.IntVar(&o.workerConcurrency, "worker-concurrency", o.workerConcurrency, "Maximum number of concurrent requests to agents, and of those to call-gates.")
	fs.StringVar(&o.webhookAddress, "webhook-bind-address", o.webhookAddress, "Address that receives LiveKit's webhooks at "+rooms.WebhookPath+". Empty: no webhooks are received.")
	fs.StringSliceVar(&o.webhookPeers, "webhook-peers", o.webhookPeers, "host:port of the other replicas, to which webhooks are forwarded. A name may resolve to all replicas, including this one.")
	fs.StringVar(&o.replicasService, "replicas-service", o.replicasService, "namespace/name of a Service that selects all replicas of this program, ready or not. Its EndpointSlices give the number of replicas that share the requests to LiveKit. Empty: --replicas is used.")
	fs.IntVar(&o.replicas, "replicas", o.replicas, "Number of replicas of this program, used until --replicas-service gives the number, or if it is not set.")
	fs.StringVar(&o.service, "service", o.service, "namespace/name[:port] of the Service that the APIServices name. Used for the self-signed serving certificate and for --compose-service.")
	fs.DurationVar(&o.certificateLifetime, "certificate-lifetime", o.certificateLifetime, "Lifetime of the self-signed serving certificate, which is used unless --tls-cert-file is set.")
	o.compose.addFlags(fs)
	o.keda.addFlags(fs)
	o.logLevel.AddFlag(fs)
	return fs
}

// Validate reports all mistakes, each with a value that would work.
func (o *Options) Validate() error {
	var m program.Mistakes
	o.livekit.Validate(&m)
	m.AtLeast("max-staleness", o.livekit.Rooms.MaxStaleness, 2*o.podInterval)
	m.AtLeast("pod-interval", o.podInterval, time.Second)
	m.AtLeast("worker-timeout", o.workerTimeout, 100*time.Millisecond)
	m.AtLeast("certificate-lifetime", o.certificateLifetime, time.Minute)
	m.Concurrency("worker-concurrency", o.workerConcurrency)
	if o.webhookAddress != "" {
		m.Address("webhook-bind-address", o.webhookAddress, "host:port such as :8090, or nothing")
	}
	for _, peer := range o.webhookPeers {
		if host, _, err := net.SplitHostPort(peer); err != nil || host == "" {
			m.Wrong("webhook-peers", peer, "host:port such as metrics-adapter-peers.callguard-system.svc:8090")
		}
	}
	if name, _, err := service(o.replicasService); o.replicasService != "" && (err != nil || name.String() != o.replicasService) {
		m.Wrong("replicas-service", o.replicasService, "namespace/name such as callguard-system/metrics-adapter-peers, or nothing")
	}
	if o.replicas < 1 || o.replicas > maxReplicas {
		m.Wrong("replicas", o.replicas, fmt.Sprintf("a number from 1 to %d, such as 2", maxReplicas))
	}
	if _, _, err := service(o.service); err != nil {
		m.Wrong("service", o.service, "namespace/name such as callguard-system/metrics-adapter")
	}
	o.compose.validate(&m, o.selfMadeCertificate())
	o.keda.validate(&m)
	m.Add(o.logLevel.Validate())
	m.File("lister-kubeconfig", o.base.RemoteKubeConfigFile)
	m.File("tls-cert-file", o.base.SecureServing.ServerCert.CertKey.CertFile)
	m.File("tls-private-key-file", o.base.SecureServing.ServerCert.CertKey.KeyFile)
	m.Add(o.base.Validate()...)
	return m.Err()
}

func (o *Options) serviceName() types.NamespacedName { return named(o.service) }

// named returns the Service in a text that Validate has checked.
func named(text string) types.NamespacedName {
	name, _, _ := service(text)
	return name
}

// selfMadeCertificate reports whether no certificate is given by flags.
func (o *Options) selfMadeCertificate() bool {
	cert := o.base.SecureServing.ServerCert
	return cert.CertKey.CertFile == "" && cert.CertKey.KeyFile == "" && cert.CertDirectory == ""
}
