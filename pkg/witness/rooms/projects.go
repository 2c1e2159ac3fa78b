// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/livekit"
)

// ProjectsConfig is what Projects needs.
type ProjectsConfig struct {
	// Default returns the credentials of the default project; nil if there is none.
	Default func(context.Context) (Version, error)
	// Secret returns the credentials in a Secret, under these keys.
	Secret    func(context.Context, types.NamespacedName, call.SecretKeys) (Version, error)
	Transport http.RoundTripper
	// Tenants returns the transport for the projects that a namespace's Secrets name; if nil, Transport is
	// used for all.
	Tenants func(namespace string) http.RoundTripper
	// Replicas returns, without waiting, how many replicas of this program share the request
	// limit now; nil means one.
	Replicas func() int
	// OnlyWanted has the default project, too, read only while it is wanted.
	OnlyWanted bool
	Settings

	OnChange func([]types.UID)
	// Lengths returns the table that learns the lengths of a pod's calls, or nil.
	Lengths func(call.Project, types.UID) *lengths.Table
	Metrics *Metrics
	Log     *slog.Logger
}

// rest is how long a project is at rest before it is read again, in order to know how much
// there is to read, and that it is readable.
const rest = 10 * time.Minute

// maxProjects is how many projects are read for the pods of one namespace, because whoever
// writes its pods chooses the servers that are asked.
const maxProjects = 20

// Projects runs a Reader for each LiveKit server of the default project and of every
// project that pods name, up to maxProjects of a namespace. A project has more than one
// server while there are pods that were created before its URL changed. Its methods are
// safe for concurrent use.
type Projects struct {
	cfg     ProjectsConfig
	origins *Origins
	budget  *livekit.Budget
	kept    *shares
	paces   *paces
	changed chan struct{}

	mu      sync.RWMutex
	wanted  map[call.Project]bool // whether it is read
	births  map[call.Project]call.Births
	spared  map[call.Project]bool
	rests   map[call.Project]time.Time // until when the projects at rest are not read
	looking map[call.Project]bool      // projects whose credentials are being read
	readers map[call.Project][]*bound
}

// bound is the Reader of one server of a project.
type bound struct {
	*Reader

	stop context.CancelFunc

	mu     sync.Mutex
	server string // empty until it is known
}

// of returns the server, and sets it to the given one if none is known.
func (b *bound) of(server string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server == "" {
		b.server = server
	}
	return b.server
}

// NewProjects returns Projects that read nothing until Run.
func NewProjects(cfg ProjectsConfig) *Projects {
	cfg.Transport = livekit.BoundHeaders(cfg.Transport)
	if cfg.Tenants == nil {
		cfg.Tenants = func(string) http.RoundTripper { return cfg.Transport }
	}
	return &Projects{
		cfg: cfg, budget: livekit.NewBudget(), kept: newKept(), paces: newPaces(cfg.Settings, cfg.Replicas), changed: make(chan struct{}, 1),
		origins: NewOrigins(func(ctx context.Context, project call.Project) (Version, error) {
			secret, ok := project.Secret()
			switch {
			case ok:
				return cfg.Secret(ctx, secret, project.Keys())
			case cfg.Default == nil:
				return Version{}, noDefault()
			default:
				return cfg.Default(ctx)
			}
		}),
		rests: map[call.Project]time.Time{}, looking: map[call.Project]bool{}, readers: map[call.Project][]*bound{},
	}
}

func noDefault() error {
	return fmt.Errorf("there is no default LiveKit project; set --livekit-secret-dir or --livekit-url, or name a Secret in annotation %s of the pod template", call.SecretAnnotation)
}

// Origins returns what is remembered of the projects. Its Keep has to run.
func (p *Projects) Origins() *Origins { return p.origins }

// Want sets the projects that pods work for, and when these pods were created. The default
// project need not be named, unless OnlyWanted is set.
func (p *Projects) Want(projects map[call.Project]call.Births) { p.WantSparing(projects, nil) }

// WantSparing is like Want, with some projects that need not be read for now. Such a project
// is put at rest if all of it can be read quickly once it is needed. At rest it is not read,
// and what was known about it is forgotten.
func (p *Projects) WantSparing(projects map[call.Project]call.Births, spared map[call.Project]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := bounded(projects, p.wanted)
	if maps.Equal(p.wanted, wanted) && maps.Equal(p.births, projects) && maps.Equal(p.spared, spared) {
		return
	}
	p.wanted, p.births, p.spared = wanted, maps.Clone(projects), maps.Clone(spared)
	p.poke()
}

// poke has Run check what is wanted.
func (p *Projects) poke() {
	select {
	case p.changed <- struct{}{}:
	default: // it was poked already
	}
}

// bounded returns for each project whether it is read. Projects that were read before stay,
// so that a new workload of a namespace does not displace an older one.
func bounded(projects map[call.Project]call.Births, before map[call.Project]bool) map[call.Project]bool {
	read, inNamespace := map[call.Project]bool{}, map[string]int{}
	for _, again := range []bool{true, false} {
		for _, project := range slices.Sorted(maps.Keys(projects)) {
			if before[project] == again {
				namespace := namespaceOf(project)
				inNamespace[namespace]++
				read[project] = inNamespace[namespace] <= maxProjects
			}
		}
	}
	return read
}

// Run keeps one Reader running for each server of each wanted project until ctx is done.
func (p *Projects) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		rested := time.NewTicker(rest / 10)
		defer rested.Stop()
		for {
			p.align(ctx, g)
			select {
			case <-p.changed:
			case <-rested.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// align starts and stops Readers for what is wanted now, and has the credentials read of
// projects that have had new pods since the last time.
func (p *Projects) align(ctx context.Context, g *errgroup.Group) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted, now := p.wantedNow(), time.Now()
	maps.DeleteFunc(p.rests, func(project call.Project, _ time.Time) bool { return !slices.Contains(wanted, project) })
	wanted = slices.DeleteFunc(wanted, func(project call.Project) bool { return p.isAtRest(project, now) })
	for project, running := range p.readers {
		if !slices.Contains(wanted, project) {
			for _, b := range running {
				b.stop()
			}
			delete(p.readers, project)
		}
	}
	for _, project := range wanted {
		births := p.births[project]
		if !p.looking[project] && !p.origins.covers(project, births.Newest) {
			p.looking[project] = true
			g.Go(func() error {
				_, err := p.origins.Get(ctx, project, births.Newest)
				p.mu.Lock()
				defer p.mu.Unlock()
				delete(p.looking, project)
				if err == nil { // otherwise the Reader tries again
					p.poke()
				}
				return nil
			})
		}
		needed := p.origins.needed(project, births.Oldest)
		running := slices.DeleteFunc(p.readers[project], func(b *bound) bool {
			old := len(needed) > 0 && !slices.Contains(needed, b.of(needed[len(needed)-1]))
			if old {
				b.stop()
			}
			return old
		})
		if len(needed) == 0 && len(running) == 0 {
			needed = []string{""}
		}
		for _, server := range needed {
			if !slices.ContainsFunc(running, func(b *bound) bool { return b.of(server) == server }) {
				running = append(running, p.start(ctx, g, project, server))
			}
		}
		slices.SortFunc(running, func(a, b *bound) int { // the present one is last
			return cmp.Compare(slices.Index(needed, a.of("")), slices.Index(needed, b.of("")))
		})
		p.readers[project] = running
	}
}

// isAtRest reports whether a project is not read for now. A spared project goes to rest once
// all of its servers have been read and can be read again quickly. The lock is held.
func (p *Projects) isAtRest(project call.Project, now time.Time) bool {
	until, rested := p.rests[project]
	switch running := p.readers[project]; {
	case !p.spared[project]:
		if rested {
			p.rests[project] = time.Time{}
		}
		return false
	case now.Before(until):
		return true
	case len(running) == 0 || slices.ContainsFunc(running, func(b *bound) bool { return !b.quick(now) }):
		return false
	}
	p.rests[project] = now.Add(rest)
	return true
}

func (p *Projects) start(ctx context.Context, g *errgroup.Group, project call.Project, server string) *bound {
	ctx, stop := context.WithCancel(ctx)
	b := &bound{server: server, stop: stop}
	b.Reader = NewReader(p.config(project, b))
	g.Go(func() error { return b.Run(ctx) })
	return b
}

// Reading returns the reading of a pod from its own project. It covers each server that the
// pod may work for; the pod has calls on one of them.
func (p *Projects) Reading(pod *call.Pod, now time.Time) call.Reading {
	var one [1]*Reader // most pods have one, and this runs for each pod of a list
	readers, err := p.readersOf(pod, one[:0])
	if err != nil {
		return call.Unknown("%s", err)
	}
	most := readingOf(readers[0], pod, now)
	for _, r := range readers[1:] {
		next := readingOf(r, pod, now)
		if !most.Known() || !next.Known() {
			if most.Known() {
				most = next
			}
			break
		}
		a, _ := most.Calls()
		b, _ := next.Calls()
		joined := call.Known(max(a, b), earlier(most.At(), next.At())).WithNewest(later(most.Newest(), next.Newest()))
		if most.Unattributed() || next.Unattributed() {
			joined = joined.WithUnattributed()
		}
		most = joined
	}
	return most
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func readingOf(r *Reader, pod *call.Pod, now time.Time) call.Reading {
	r.mu.RLock()
	reading, unattributed := r.reading(pod.UID, now), r.book.unattributed
	r.mu.RUnlock()
	unread := r.Unread(now)
	switch {
	case !reading.Known() || unattributed+unread == 0:
		return reading
	case len(pod.Witnesses) == 1 && unattributed == 0:
		return call.Unknown("LiveKit does not say who is in %d rooms of project %s, and the pod has no other witness; check that all LiveKit nodes run",
			unread, pod.Project)
	case len(pod.Witnesses) == 1:
		return call.Unknown("agents in LiveKit project %s name no pod in attribute %s, and the pod has no other witness",
			pod.Project, call.PodAttribute)
	default:
		return reading.WithUnattributed()
	}
}

// RoomSIDs returns the ids of the rooms that LiveKit lists a pod's agents in.
func (p *Projects) RoomSIDs(pod *call.Pod) []string {
	readers, err := p.readersOf(pod, nil)
	if err != nil {
		return nil
	}
	var sids []string
	for _, r := range readers {
		sids = append(sids, r.RoomSIDs(pod.UID)...)
	}
	return sids
}

// Ages returns how old the calls are that LiveKit lists of a pod, at least, in no order.
func (p *Projects) Ages(pod *call.Pod, now time.Time) (ages []time.Duration) {
	readers, err := p.readersOf(pod, nil)
	if err != nil {
		return nil
	}
	for _, r := range readers {
		ages = append(ages, r.Ages(pod.UID, now)...)
	}
	return ages
}

// Ask returns the reading of a pod from its own project, as of the latest sweep.
func (p *Projects) Ask(_ context.Context, pod *call.Pod) call.Reading {
	return p.Reading(pod, time.Now())
}

// Fresh returns nil if what is known of the present server of a project can be believed,
// otherwise why not.
func (p *Projects) Fresh(project call.Project, now time.Time) error {
	r, err := p.reader(project)
	if err != nil {
		return err
	}
	return r.Fresh(now)
}

// readersOf appends the Readers of all servers that a pod may work for.
func (p *Projects) readersOf(pod *call.Pod, readers []*Reader) ([]*Reader, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	running := p.readers[pod.Project]
	if len(running) == 0 {
		return nil, p.unread(pod.Project)
	}
	servers, err := p.origins.Of(pod)
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return append(readers, running[len(running)-1].Reader), nil
	}
	for _, server := range servers {
		i := slices.IndexFunc(running, func(b *bound) bool { return b.of("") == server })
		if i < 0 {
			return nil, fmt.Errorf("LiveKit project %s has not been read yet at %s", pod.Project, server)
		}
		readers = append(readers, running[i].Reader)
	}
	return readers, nil
}

// reader returns the Reader of the present server of a project.
func (p *Projects) reader(project call.Project) (*Reader, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if running := p.readers[project]; len(running) > 0 {
		return running[len(running)-1].Reader, nil
	}
	return nil, p.unread(project)
}

// unread returns why a project has no Reader. The lock is held.
func (p *Projects) unread(project call.Project) error {
	if project == call.DefaultProject && p.cfg.Default == nil {
		return noDefault()
	}
	if read, wanted := p.wanted[project]; wanted && !read {
		return fmt.Errorf("LiveKit project %s is not read: the pods of its namespace name more than %d in annotation %s; let workloads share a Secret", project, maxProjects, call.SecretAnnotation)
	}
	return fmt.Errorf("LiveKit project %s has not been read yet", project)
}

// verifiers returns the Readers whose project has an API key.
func (p *Projects) verifiers(apiKey string) map[*Reader]call.Project {
	p.mu.RLock()
	defer p.mu.RUnlock()
	found := map[*Reader]call.Project{}
	for project, running := range p.readers {
		for _, b := range running {
			if b.Secret(apiKey) != "" {
				found[b.Reader] = project
			}
		}
	}
	return found
}

// wantedNow returns the projects that are read. The lock is held.
func (p *Projects) wantedNow() []call.Project {
	var ps []call.Project
	for project, read := range p.wanted {
		if _, ok := project.Secret(); ok && read {
			ps = append(ps, project)
		}
	}
	if p.cfg.Default != nil && (!p.cfg.OnlyWanted || p.wanted[call.DefaultProject]) {
		ps = append(ps, call.DefaultProject)
	}
	return ps
}

func (p *Projects) config(project call.Project, b *bound) Config {
	credentials := func(ctx context.Context) (livekit.Credentials, error) {
		p.mu.RLock()
		newest := p.births[project].Newest
		p.mu.RUnlock()
		v, err := p.origins.Get(ctx, project, newest)
		if err != nil {
			return livekit.Credentials{}, err
		}
		server := b.of(v.Server())
		if server == v.Server() {
			return v.Credentials, nil
		}
		p.poke() // a server that has to be read has no Reader yet
		of, ok := p.origins.credentials(project, server)
		if !ok {
			return livekit.Credentials{}, fmt.Errorf("LiveKit project %s has another server now", project)
		}
		return of, nil
	}
	transport := p.cfg.Transport
	if secret, ok := project.Secret(); ok {
		transport = &tenantTransport{
			own: p.cfg.Transport, others: p.cfg.Tenants(secret.Namespace),
			isOwn: func() bool { _, is := p.origins.credentials(call.DefaultProject, b.of("")); return is },
		}
	}
	var learnt func(types.UID) *lengths.Table
	if p.cfg.Lengths != nil {
		learnt = func(pod types.UID) *lengths.Table { return p.cfg.Lengths(project, pod) }
	}
	_, rested := p.rests[project]
	var swept func()
	if p.cfg.OnlyWanted {
		swept = p.poke
	}
	return Config{
		Project:     project,
		Twice:       rested,
		Swept:       swept,
		Lengths:     learnt,
		Credentials: credentials,
		Transport:   transport,
		Budget:      p.budget,
		Kept:        p.kept,
		Pace:        p.paces.of,
		Settings:    p.cfg.Settings,
		OnChange:    p.cfg.OnChange,
		Metrics:     p.cfg.Metrics,
		Log:         p.cfg.Log,
	}
}

// tenantTransport connects to the server of a tenant's project. If that is the administrator's own server, it may be
// at any address.
type tenantTransport struct {
	own, others http.RoundTripper
	// isOwn reports whether the default project has, or had, this server.
	isOwn func() bool
}

// RoundTrip implements http.RoundTripper.
func (t *tenantTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.isOwn() {
		return t.own.RoundTrip(req)
	}
	return t.others.RoundTrip(req)
}

// paces has the Paces of a process, by credentials: two Secrets with the same credentials
// share one, and a project that is not wanted for a while keeps its own. A Secret with a
// wrong key takes nothing from one with the right key.
type paces struct {
	perMinute, share int
	replicas         func() int

	mu   sync.Mutex
	made map[livekit.Credentials]*livekit.Pace
}

// all is the whole of a limit, in hundredths.
const all = 100

// maxPaces is for how many credentials a Pace is remembered, at about 1 KiB each.
const maxPaces = 4096

func newPaces(s Settings, replicas func() int) *paces {
	if replicas == nil {
		replicas = func() int { return 1 }
	}
	return &paces{perMinute: s.RequestsPerMinute, share: cmp.Or(s.Share, all), replicas: replicas, made: map[livekit.Credentials]*livekit.Pace{}}
}

func (p *paces) of(creds livekit.Credentials) *livekit.Pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pace := p.made[creds]; pace != nil {
		return pace
	}
	if len(p.made) >= maxPaces {
		clear(p.made)
	}
	pace := livekit.NewSharedPace(livekit.Limit(p.perMinute, creds.URL)*p.share/all, p.replicas)
	p.made[creds] = pace
	return pace
}
