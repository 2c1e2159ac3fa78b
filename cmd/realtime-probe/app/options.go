// SPDX-License-Identifier: Apache-2.0

// Package app is the program realtime-probe: it turns flags into options, and options into
// a prober and, if there is a gate, a reader of its calls. It decides nothing itself.
package app

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/realtime"
	"github.com/callguard/callguard/pkg/witness/gate"
)

// The modes.
const (
	modeCached = "cached"
	modeStrict = "strict"
)

// minInterval limits a pod to 8,640 sessions a day.
const minInterval = 10 * time.Second

// Options are the values of the flags.
type Options struct {
	baseURL, model, keyFile string
	authHeader              string
	deployment, apiVersion  string
	organization, project   string
	caFile                  string

	interval, timeout, grace time.Duration
	fatalAfter               int
	mode                     string

	listen           string
	callsURL, podUID string
	logLevel         program.LogLevel
}

// NewOptions returns the default options.
func NewOptions(env func(string) string) *Options {
	return &Options{
		baseURL:      "wss://api.openai.com/v1",
		authHeader:   string(realtime.Bearer),
		organization: env("OPENAI_ORG_ID"),
		project:      env("OPENAI_PROJECT_ID"),
		interval:     time.Minute,
		timeout:      8 * time.Second,
		grace:        5 * time.Minute,
		fatalAfter:   2,
		mode:         modeCached,
		listen:       ":8080",
		callsURL:     defaultCalls(),
		podUID:       env("POD_UID"),
		logLevel:     "info",
	}
}

func defaultCalls() string {
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(call.DefaultGatePort)) + gate.Path
}

// Flags returns the flags, bound to the options.
func (o *Options) Flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("realtime-probe", pflag.ContinueOnError)
	fs.StringVar(&o.baseURL, "base-url", o.baseURL, "URL of the API; /realtime is appended. For Azure OpenAI, the URL of the resource, such as https://RESOURCE.openai.azure.com; /openai/v1/realtime is appended. HTTPS_PROXY and NO_PROXY apply.")
	fs.StringVar(&o.model, "model", o.model, "Model that the agent uses, such as gpt-realtime-2.1.")
	fs.StringVar(&o.keyFile, "key-file", o.keyFile, "File with the API key, from a Secret that is mounted without subPath. It is read at each probe, so a rotated key needs no restart.")
	fs.StringVar(&o.authHeader, "auth-header", o.authHeader, "Header for the API key: bearer (Authorization: Bearer), or api-key, which Azure OpenAI uses for resource keys.")
	fs.StringVar(&o.deployment, "deployment", o.deployment, "Deployment in Azure OpenAI. Default: the name in --model.")
	fs.StringVar(&o.apiVersion, "api-version", o.apiVersion, "Version of Azure OpenAI's preview API, at /openai/realtime. Empty: /openai/v1 is used, which has no version.")
	fs.StringVar(&o.organization, "organization", o.organization, "OpenAI organization of the sessions; may be empty. Default: $OPENAI_ORG_ID.")
	fs.StringVar(&o.project, "project", o.project, "OpenAI project of the sessions; may be empty. Default: $OPENAI_PROJECT_ID.")
	fs.StringVar(&o.caFile, "ca-file", o.caFile, "File with certificate authorities for the API, as PEM, trusted in addition to the system's.")
	fs.DurationVar(&o.interval, "interval", o.interval, "Pause between probes, varied randomly by up to 20 %. After a failure it is a quarter of that, and then grows up to 5m.")
	fs.DurationVar(&o.timeout, "timeout", o.timeout, "Time limit of one probe, from the name lookup to session.created.")
	fs.DurationVar(&o.grace, "grace", o.grace, "How long the pod stays ready while probes fail with an error that may be temporary.")
	fs.IntVar(&o.fatalAfter, "fatal-after", o.fatalAfter, "Number of fatal failures in a row, such as a rejected key, after which the pod is not ready.")
	fs.StringVar(&o.mode, "mode", o.mode, "cached: ready during --grace and while the pod holds calls. strict: ready only if the last probe succeeded.")
	fs.StringVar(&o.listen, "bind-address", o.listen, "Address that serves GET /healthz/realtime, /healthz, /livez and /metrics.")
	fs.StringVar(&o.callsURL, "calls-url", o.callsURL, "URL of call-gate's GET /calls. While the pod holds calls, or their number is unknown, it stays ready. Empty: without call-gate; readiness ignores calls.")
	fs.StringVar(&o.podUID, "pod-uid", o.podUID, "UID of the pod, compared with the one in call-gate's answer. Default: $POD_UID, from the downward API.")
	o.logLevel.AddFlag(fs)
	return fs
}

// Validate reports all mistakes, each with a value that would work.
func (o *Options) Validate() error {
	var m program.Mistakes
	if _, err := realtime.ParseBaseURL(o.baseURL); err != nil {
		m.Add(fmt.Errorf("--base-url: %w", err))
	}
	for _, text := range []struct{ flag, value, use string }{
		{"model", o.model, "the model that the agent asks for, such as gpt-realtime-2.1"},
		{"organization", o.organization, "an organization's name such as org-123"},
		{"project", o.project, "a project's name such as proj_123"},
		{"deployment", o.deployment, "a deployment's name such as gpt-realtime"},
		{"api-version", o.apiVersion, "a version such as 2025-04-01-preview, or none"},
	} {
		if strings.ContainsFunc(text.value, func(r rune) bool { return r <= ' ' || r > '~' }) || text.flag == "model" && text.value == "" {
			m.Wrong(text.flag, text.value, text.use)
		}
	}
	if header := realtime.AuthHeader(o.authHeader); header != realtime.Bearer && header != realtime.APIKey {
		m.Wrong("auth-header", o.authHeader, "bearer, or api-key for Azure OpenAI")
	}
	if o.keyFile == "" {
		m.Wrong("key-file", "", "the file of a mounted Secret, such as /etc/openai/api-key")
	}
	m.File("ca-file", o.caFile)
	if o.interval < minInterval {
		m.Wrong("interval", o.interval, minInterval.String()+" or more, such as 1m")
	}
	if o.timeout <= 0 || o.timeout > time.Minute {
		m.Wrong("timeout", o.timeout, "up to 1m, such as 8s")
	}
	if o.grace < 0 {
		m.Wrong("grace", o.grace, "0s or more, such as 5m")
	}
	if o.fatalAfter < 1 {
		m.Wrong("fatal-after", o.fatalAfter, "1 or more, such as 2")
	}
	if o.mode != modeCached && o.mode != modeStrict {
		m.Wrong("mode", o.mode, "cached or strict")
	}
	m.Address("bind-address", o.listen, "host:port such as :8080")
	_, err := o.pod()
	m.Add(err)
	m.Add(o.logLevel.Validate())
	return m.Err()
}

// pod returns this pod in the form that the gate's reader takes; nil if there is no gate.
func (o *Options) pod() (*call.Pod, error) {
	if o.callsURL == "" {
		return nil, nil
	}
	u, err := url.Parse(o.callsURL)
	if err != nil || u.Scheme != "http" || u.Path != gate.Path || !loopback(u.Hostname()) {
		return nil, fmt.Errorf("--calls-url is %q; use call-gate in the same pod, such as %s, or nothing where there is none", o.callsURL, defaultCalls())
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, fmt.Errorf("--calls-url is %q, which names no port; use call-gate's, such as %s", o.callsURL, defaultCalls())
	}
	if o.podUID == "" {
		return nil, errors.New(`--pod-uid is ""; use $POD_UID with fieldRef metadata.uid, or --calls-url= where there is no call-gate`)
	}
	return &call.Pod{
		UID: types.UID(o.podUID), IP: u.Hostname(), GatePort: port, Running: true, Witnesses: []call.Witness{call.Gate},
	}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
