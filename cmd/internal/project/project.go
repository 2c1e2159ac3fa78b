// SPDX-License-Identifier: Apache-2.0

// Package project has the flags for the LiveKit projects that are read, and how, which
// metrics-adapter and drain-guard share. It does not read projects.
package project

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"

	"github.com/callguard/callguard/cmd/internal/program"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/rooms"
)

// AdapterShare and GuardShare are the parts of a project's requests that metrics-adapter and
// drain-guard may send, in hundredths. What is left is for call-gates, which look into the
// rooms of their own jobs. The parts are fixed, so that the programs need not negotiate
// them.
const (
	AdapterShare = 60
	GuardShare   = 30
)

// leastRequests is the lowest limit of a project that leaves drain-guard enough.
const leastRequests = livekit.LeastLimit * 100 / GuardShare

// Options are the values of the flags.
type Options struct {
	Rooms rooms.Settings
	// Allowed are ranges of addresses where the LiveKit of a workload's own Secret may be, in addition to those
	// that are always allowed.
	Allowed []net.IPNet

	files rooms.Files
	keys  string
}

// Meaning has the texts of the flags' help that differ between the programs.
type Meaning struct {
	// Until is what applies to the default project until its credentials exist, such as "pods of it are held".
	Until string
	// Resync, MaxStaleness and Limit are for the flags of these names.
	Resync, MaxStaleness, Limit string
}

// AddFlags adds the flags.
func (o *Options) AddFlags(fs *pflag.FlagSet, m Meaning) {
	const again = " Read again every minute."
	fs.StringVar(&o.files.URL, "livekit-url", o.files.URL, "URL of the default LiveKit project, such as wss://livekit.example.com. Workloads may name others in an annotation.")
	fs.StringVar(&o.files.URLFile, "livekit-url-file", o.files.URLFile, "File with the URL of the default LiveKit project, instead of --livekit-url. It may be created later, together with the key: until then "+m.Until+"."+again)
	fs.StringVar(&o.files.KeyFile, "livekit-api-key-file", o.files.KeyFile, "File with the API key of the default project."+again)
	fs.StringVar(&o.files.SecretFile, "livekit-api-secret-file", o.files.SecretFile, "File with the API secret of the default project."+again)
	fs.StringVar(&o.files.Dir, "livekit-secret-dir", o.files.Dir, "Folder of a mounted Secret with URL, API key and API secret of the default project, in the files that --livekit-secret-keys names. They may be created later: until then "+m.Until+"."+again)
	fs.StringVar(&o.keys, "livekit-secret-keys", o.keys, "Names of the files in --livekit-secret-dir, such as "+call.ExampleSecretKeys+", or some of them. The default names are url, api-key and api-secret, or LiveKit's own.")
	fs.DurationVar(&o.Rooms.Resync, "resync-interval", o.Rooms.Resync, m.Resync)
	fs.DurationVar(&o.Rooms.MaxStaleness, "max-staleness", o.Rooms.MaxStaleness, m.MaxStaleness)
	fs.DurationVar(&o.Rooms.Timeout, "livekit-timeout", o.Rooms.Timeout, "Time limit of one request to LiveKit. LiveKit itself takes up to 3s to report that a room's node does not answer; use more.")
	fs.IPNetSliceVar(&o.Allowed, "livekit-allow-cidr", o.Allowed, "Private, loopback and link-local address ranges, such as 10.20.0.0/16, to which the LiveKit URL in a workload's own Secret may lead. Always allowed are public addresses, Services of the workload's namespace, and the server of the default project.")
	fs.IntVar(&o.Rooms.Concurrency, "livekit-concurrency", o.Rooms.Concurrency, "Maximum number of concurrent requests to one LiveKit project.")
	fs.IntVar(&o.Rooms.RequestsPerMinute, "livekit-requests-per-minute", o.Rooms.RequestsPerMinute, fmt.Sprintf("Requests per minute that a LiveKit project accepts from all clients together. 0 means 1,000 for LiveKit Cloud, and no limit for other servers until one answers 429. All replicas of metrics-adapter together send at most %d %% of it, drain-guard %d %%. The rest is for call-gates. ", AdapterShare, GuardShare)+m.Limit)
}

// Validate adds every mistake.
func (o *Options) Validate(m *program.Mistakes) {
	f := o.files
	m.Add(f.Validate(o.keys))
	if f.URL != "" && f.URLFile != "" {
		m.Wrong("livekit-url-file", f.URLFile, "either this or --livekit-url")
	}
	if f.URL != "" {
		if err := livekit.ValidateURL(f.URL); err != nil {
			m.Add(fmt.Errorf("--livekit-url: %w", err))
		}
	}
	switch {
	case f.URL != "" || f.URLFile != "":
		if f.KeyFile == "" {
			m.Wrong("livekit-api-key-file", "", "the file that holds the API key, such as /etc/livekit/api-key")
		}
		if f.SecretFile == "" {
			m.Wrong("livekit-api-secret-file", "", "the file that holds the API secret, such as /etc/livekit/api-secret")
		}
	case f.KeyFile != "" || f.SecretFile != "":
		m.Wrong("livekit-url", "", "the URL that the given key is for, such as wss://livekit.example.com")
	}
	m.AtLeast("resync-interval", o.Rooms.Resync, time.Second)
	m.AtLeast("max-staleness", o.Rooms.MaxStaleness, max(2*o.Rooms.Resync, 2*time.Second))
	m.AtLeast("livekit-timeout", o.Rooms.Timeout, 100*time.Millisecond)
	if n := o.Rooms.RequestsPerMinute; n != 0 && n < leastRequests {
		m.Wrong("livekit-requests-per-minute", n, fmt.Sprintf("0, or %d or more, such as %d", leastRequests, livekit.CloudLimit))
	}
	m.Concurrency("livekit-concurrency", o.Rooms.Concurrency)
}

// Files returns the files with the credentials of the default project.
func (o *Options) Files() rooms.Files {
	f := o.files
	f.Keys, _ = call.ParseSecretKeys(o.keys) // Validate has read it
	return f
}

// HasDefault reports whether there is a default project.
func (o *Options) HasDefault() bool { return rooms.FileCredentials(o.Files()) != nil }
