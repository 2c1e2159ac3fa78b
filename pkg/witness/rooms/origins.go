// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/weburl"
)

const (
	// keepEvery is how soon the Secret of a new project is read.
	keepEvery = 10 * time.Second
	// keptFor is how long it is not read again after that.
	keptFor = time.Minute
	// maxVersions is how many servers of one project are remembered, because whoever writes
	// its Secret chooses which are asked.
	maxVersions = 4
	// maxTold is for how many pods the server that their gates reported is remembered.
	maxTold = 25_000
)

// Version is the content of the Secret or the files of a project, and since when they have
// named that server. Keys may change, because all keys of a server see the same rooms.
type Version struct {
	livekit.Credentials

	// URLKey is the Secret's key that has the URL; empty for files.
	URLKey string
	// Since is when the URL was written, by the API server's clock: pods that were created
	// later started with it. Zero means unknown: then the first known URL counts as having
	// always been there, and after a change, pods that exist at that time may have started
	// before.
	Since time.Time
	// Original reports whether the URL has not been written since the Secret was created. No
	// pod that names the Secret can have started before, unless there was an earlier Secret of
	// that name.
	Original bool
	// Always reports whether an annotation confirms that it has never had another URL.
	Always bool
}

// Server returns the server of a version in a normal form, because URLs that are written
// differently may name the same server.
func (v Version) Server() string {
	if u, err := weburl.Parse(v.URL, livekit.ExampleURL); err == nil {
		return u.String()
	}
	return v.URL
}

// versionOf reads a Secret with these keys.
func versionOf(secret *corev1.Secret, keys call.SecretKeys) Version {
	field := func(key string) string { return strings.TrimSpace(string(secret.Data[key])) }
	v := Version{Credentials: livekit.Credentials{URL: field(keys.URL), APIKey: field(keys.APIKey), APISecret: field(keys.APISecret)}, URLKey: keys.URL}
	v.Since = secret.CreationTimestamp.Time
	for _, entry := range secret.ManagedFields {
		var fields struct {
			Data map[string]json.RawMessage `json:"f:data"`
		}
		if entry.FieldsV1 == nil || entry.Time == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, wrote := fields.Data["f:"+keys.URL]; wrote && entry.Time.After(v.Since) {
			v.Since = entry.Time.Time
		}
	}
	said := Version{Credentials: livekit.Credentials{URL: secret.Annotations[call.SameURLAnnotation]}}
	v.Original = v.Since.Sub(secret.CreationTimestamp.Time) <= time.Second // of one request, if the times, in whole seconds, are about equal
	v.Always = said.URL != "" && said.Server() == v.Server()
	return v
}

// Origins remember which LiveKit servers projects had, and with which credentials. A pod
// keeps working for the server with which it started, even if its Secret changes or is
// deleted, or callguard may no longer read it. A restarted container works for the server
// of that time, so a pod may work for any server that its project has had since the pod was
// created.
type Origins struct {
	read func(context.Context, call.Project) (Version, error)

	mu    sync.Mutex
	known map[call.Project]*origin
	// told has the server that a pod's gate was started with.
	told map[types.UID]string
}

type origin struct {
	versions []Version // oldest first; the present one is last
	// servers has, for each version, the servers from that version on, the present one last.
	// It is kept because every reading of a pod needs it.
	servers [][]string
	// seen is the newest pod that existed when the project was last read.
	seen time.Time
	at   time.Time // when that was
}

// NewOrigins returns Origins that remember nothing yet. read reads a project.
func NewOrigins(read func(context.Context, call.Project) (Version, error)) *Origins {
	return &Origins{read: read, known: map[call.Project]*origin{}, told: map[types.UID]string{}}
}

// Get reads a project, whose newest pod was created at the given time, and returns its
// present version, or the latest one if it can no longer be read.
func (o *Origins) Get(ctx context.Context, project call.Project, newest time.Time) (Version, error) {
	v, err := o.read(ctx, project)
	if err == nil {
		err = v.Validate()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	is := o.known[project]
	if err != nil && is == nil {
		return v, err
	}
	if is == nil {
		is = &origin{}
		o.known[project] = is
	}
	if newest.After(is.seen) {
		is.seen = newest
	}
	if err == nil {
		is.enter(v)
		is.keep(is.versions)
	}
	is.at = time.Now()
	return is.versions[len(is.versions)-1], nil
}

// enter records the present version of a project.
func (is *origin) enter(v Version) {
	n := len(is.versions)
	switch {
	case v.Always:
		v.Since, is.versions = time.Time{}, nil
	case n == 0 && v.Original:
		v.Since = time.Time{}
	case n == 0:
	case is.versions[n-1].Server() == v.Server(): // only its key may have changed
		v.Since = is.versions[n-1].Since
		is.versions[n-1] = v
		return
	case v.Since.IsZero(), v.URLKey != is.versions[n-1].URLKey: // the time is unknown, so all existing pods may be older
		v.Since = later(v.Since, is.seen.Add(time.Second))
	}
	is.versions = append(is.versions, v)
	if len(is.versions) > maxVersions {
		is.versions = is.versions[1:]
	}
}

// keep keeps these versions, and their servers.
func (is *origin) keep(versions []Version) {
	is.versions, is.servers = versions, make([][]string, len(versions))
	for i := range versions {
		is.servers[i] = servers(versions[i:])
	}
}

// since returns the first version that a pod may work for, as its index, or why that is not
// known.
func (is *origin) since(project call.Project, born time.Time) (int, error) {
	if born.After(is.seen) {
		return 0, fmt.Errorf("LiveKit project %s has not been looked up since this pod was born", project)
	}
	for i, v := range slices.Backward(is.versions) {
		if !born.Before(v.Since) && (i == 0 || born.After(v.Since)) {
			return i, nil
		}
	}
	server := is.versions[len(is.versions)-1].Server()
	if project == call.DefaultProject {
		return 0, fmt.Errorf("the URL of callguard's own LiveKit may have changed since this pod was born, so it is not known which LiveKit has its calls; if it was %s then, delete annotation callguard.dev/livekit-url of Lease drain-guard", server)
	}
	return 0, fmt.Errorf("the url in Secret %s may have changed since this pod was born, so it is not known which LiveKit project has its calls; if it was the same then, annotate the Secret %s=%s",
		project, call.SameURLAnnotation, server)
}

// Of returns the servers that a pod may work for, the present one last, or why they are not
// known. The caller must not change them.
func (o *Origins) Of(pod *call.Pod) ([]string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	is := o.known[pod.Project]
	if is == nil {
		return nil, nil // the project has never been read; whoever reads it reports why
	}
	first, err := is.since(pod.Project, pod.Born)
	if err != nil {
		if told := o.told[pod.UID]; slices.Contains(is.servers[0], told) {
			return []string{told}, nil
		}
		return nil, err
	}
	return is.servers[first], nil
}

// servers returns the servers of versions, that of the last version last.
func servers(versions []Version) []string {
	var list []string
	for _, v := range slices.Backward(versions) {
		if !slices.Contains(list, v.Server()) {
			list = append(list, v.Server())
		}
	}
	slices.Reverse(list)
	return list
}

// needed returns the servers that pods created since then may work for, the present one
// last.
func (o *Origins) needed(project call.Project, oldest time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	is := o.known[project]
	if is == nil {
		return nil
	}
	if first, err := is.since(project, oldest); err == nil {
		return is.servers[first]
	}
	return is.servers[0]
}

// covers reports whether a project has been read since the newest pod was created.
func (o *Origins) covers(project call.Project, newest time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	is := o.known[project]
	return is == nil || !newest.After(is.seen)
}

// credentials returns the latest credentials for a server, and whether the project had that
// server.
func (o *Origins) credentials(project call.Project, server string) (livekit.Credentials, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if is := o.known[project]; is != nil {
		for _, v := range slices.Backward(is.versions) {
			if v.Server() == server {
				return v.Credentials, true
			}
		}
	}
	return livekit.Credentials{}, false
}

// Tell records with which LiveKit URL a pod's gate was started.
func (o *Origins) Tell(pod types.UID, url string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if url == "" || len(url) > maxHinted {
		return
	}
	if len(o.told) >= maxTold {
		clear(o.told) // gates are asked again soon
	}
	o.told[pod] = Version{Credentials: livekit.Credentials{URL: url}}.Server()
}

// Keep reads the projects that pods name, before they are needed, until ctx is done. It
// forgets projects that no pod names any more.
func (o *Origins) Keep(ctx context.Context, named func() map[call.Project]call.Births) error {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		births := named()
		read := bounded(births, nil)
		o.mu.Lock()
		maps.DeleteFunc(o.known, func(project call.Project, is *origin) bool {
			if first, err := is.since(project, births[project].Oldest); err == nil {
				is.keep(is.versions[first:]) // no pod with an earlier version is left
			}
			return !read[project]
		})
		o.mu.Unlock()
		for _, project := range slices.SortedFunc(maps.Keys(births), func(a, b call.Project) int { return cmp.Compare(a, b) }) {
			if read[project] && o.stale(project, births[project].Newest) {
				_, _ = o.Get(ctx, project, births[project].Newest) // whoever needs it asks again, and reports the error
			}
		}
	}, keepEvery)
	return nil
}

func (o *Origins) stale(project call.Project, newest time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	is := o.known[project]
	return is == nil || newest.After(is.seen) || time.Since(is.at) >= keptFor
}
