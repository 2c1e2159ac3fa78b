// SPDX-License-Identifier: Apache-2.0

// Package app is the program call-gate: it turns flags and environment into options, and
// options into a gate. It decides nothing itself.
package app

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/callgate"
	"github.com/callguard/callguard/pkg/weburl"
)

// Options are the values of the flags. LiveKit's settings come from the environment
// variables that LiveKit's SDKs read, so that the gate can use the same Secret as the
// agent.
type Options struct {
	livekitURL, apiKey, apiSecret string
	podUID                        string

	listen, status string
	workerPorts    []int
	orderFile      string
	journal        string
	caFile         string
	launchLimit    time.Duration
	perMinute      int
	logLevel       program.LogLevel
}

// NewOptions returns the default options.
func NewOptions(env func(string) string) *Options {
	return &Options{
		livekitURL: env("LIVEKIT_URL"), apiKey: env("LIVEKIT_API_KEY"), apiSecret: env("LIVEKIT_API_SECRET"),
		podUID:      env("POD_UID"),
		listen:      "127.0.0.1:7880",
		status:      ":" + strconv.Itoa(call.DefaultGatePort),
		workerPorts: []int{call.DefaultWorkerPort},
		launchLimit: callgate.DefaultLaunchLimit, perMinute: callgate.DefaultRequestsPerMinute,
		logLevel: "info",
	}
}

// Flags returns the flags, bound to the options.
func (o *Options) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("call-gate", pflag.ContinueOnError)
	fs.StringVar(&o.livekitURL, "livekit-url", o.livekitURL, "URL of the LiveKit server, such as wss://livekit.example.com. Default: $LIVEKIT_URL.")
	fs.StringVar(&o.podUID, "pod-uid", o.podUID, "UID of the pod. Default: $POD_UID, from the downward API.")
	fs.StringVar(&o.listen, "bind-address", o.listen, "Address the agent connects to; set the agent's LIVEKIT_URL to it.")
	fs.StringVar(&o.status, "status-address", o.status, "Address that serves GET /calls, /metrics, /healthz and /readyz. Set its port in the pod's annotation "+call.GatePortAnnotation+".")
	fs.IntSliceVar(&o.workerPorts, "worker-ports", o.workerPorts, "Ports at which the agents of the pod answer GET /worker, one for each worker process.")
	fs.StringVar(&o.orderFile, "order-file", o.orderFile, "File of a downwardAPI volume with metadata.annotations, or with only annotation "+call.DrainingAnnotation+". Without it call-gate is never told to drain.")
	fs.StringVar(&o.journal, "journal", o.journal, "Folder in an emptyDir where call-gate saves its jobs for a restart. Without it, call-gate asks the agent how many jobs it has.")
	fs.StringVar(&o.caFile, "ca-file", o.caFile, "File with certificate authorities for LiveKit, as PEM, trusted in addition to the system's.")
	fs.DurationVar(&o.launchLimit, "launch-limit", o.launchLimit, "Maximum time the agent takes to start an assigned job: the SDK's number of attempts times initialize_process_timeout, plus time for queued jobs. An assigned job counts as a call for that long, unless call-gate sees it run or end earlier.")
	fs.IntVar(&o.perMinute, "livekit-requests-per-minute", o.perMinute, "Maximum number of requests per minute to LiveKit's API, which is asked about the rooms of jobs. Further requests wait.")
	o.logLevel.AddFlag(fs)
	return fs
}

// Validate reports all mistakes, each with a value that would work.
func (o *Options) Validate() error {
	var m program.Mistakes
	if u, err := weburl.Parse(o.livekitURL, "wss://livekit.example.com"); err != nil {
		m.Add(fmt.Errorf("--livekit-url: %w", err))
	} else if u.Host == o.listen {
		m.Wrong("livekit-url", o.livekitURL, "the real LiveKit: this is the gate itself, where only the agent's LIVEKIT_URL leads")
	}
	if o.podUID == "" {
		m.Wrong("pod-uid", "", "$POD_UID with fieldRef metadata.uid")
	}
	m.Address("bind-address", o.listen, "host:port such as 127.0.0.1:7880")
	m.Address("status-address", o.status, "host:port such as :8089")
	for _, port := range o.workerPorts {
		if port < 1 || port > 65535 {
			m.Wrong("worker-ports", port, "ports from 1 to 65535, such as 8081")
		}
	}
	if (o.apiKey == "") != (o.apiSecret == "") {
		m.Add(errors.New("of LIVEKIT_API_KEY and LIVEKIT_API_SECRET one is set; set both, so that the gate can look into rooms, or none"))
	}
	if o.launchLimit <= 0 {
		m.Wrong("launch-limit", o.launchLimit, "more than the agent ever takes to start a job, such as "+callgate.DefaultLaunchLimit.String())
	}
	if o.perMinute < 2 { // a look into an empty room takes two requests
		m.Wrong("livekit-requests-per-minute", o.perMinute, "2 or more, such as 60")
	}
	m.File("ca-file", o.caFile)
	m.Add(o.logLevel.Validate())
	return m.Err()
}

func (o *Options) pod() types.UID { return types.UID(o.podUID) }

func (o *Options) workerURLs() []string {
	var urls []string
	for _, port := range o.workerPorts {
		urls = append(urls, "http://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(port))+"/worker")
	}
	return urls
}
