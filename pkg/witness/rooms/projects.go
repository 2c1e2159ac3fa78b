// SPDX-License-Identifier: Apache-2.0

package rooms

import (
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
	"github.com/callguard/callguard/pkg/livekit"
)

// ProjectsConfig is what Projects needs.
type ProjectsConfig struct {
	// Default gives the credentials of the default project; nil if there is none.
	Default func(context.Context) (livekit.Credentials, error)
	// Secret gives the credentials that stand in a Secret.
	Secret    func(context.Context, types.NamespacedName) (livekit.Credentials, error)
	Transport http.RoundTripper
	// OnlyWanted leaves the default project unread while nobody wants it, too.
	OnlyWanted bool
	Settings

	OnChange func([]types.UID)
	Metrics  *Metrics
	Log      *slog.Logger
}

// maxProjects bounds the projects that are read for the pods of one namespace: whoever
// writes its pods chooses the servers that are asked.
const maxProjects = 20

// Projects runs a Reader for the default project and for every project that pods
// name, up to maxProjects of a namespace. Its methods are safe for concurrent use.
type Projects struct {
	cfg     ProjectsConfig
	budget  *livekit.Budget
	paces   *paces
	changed chan struct{}

	mu      sync.RWMutex
	wanted  map[call.Project]bool // whether it is read
	readers map[call.Project]*Reader
}

// NewProjects returns Projects that read nothing until Run.
func NewProjects(cfg ProjectsConfig) *Projects {
	cfg.Transport = livekit.BoundHeaders(cfg.Transport)
	return &Projects{cfg: cfg, budget: livekit.NewBudget(), paces: newPaces(cfg.RequestsPerMinute), changed: make(chan struct{}, 1), readers: map[call.Project]*Reader{}}
}

// Want names the projects that pods work for. The default project needs no
// naming, unless OnlyWanted is set.
func (p *Projects) Want(projects map[call.Project]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := bounded(projects, p.wanted)
	if maps.Equal(p.wanted, wanted) {
		return
	}
	p.wanted = wanted
	select {
	case p.changed <- struct{}{}:
	default: // it is told already
	}
}

// bounded says of each project whether it is read. Those that were stay, so that no new
// workload of a namespace takes from another what it has.
func bounded(projects, before map[call.Project]bool) map[call.Project]bool {
	read, inNamespace := map[call.Project]bool{}, map[string]int{}
	for _, again := range []bool{true, false} {
		for _, project := range slices.Sorted(maps.Keys(projects)) {
			if before[project] == again {
				secret, _ := project.Secret()
				inNamespace[secret.Namespace]++
				read[project] = inNamespace[secret.Namespace] <= maxProjects
			}
		}
	}
	return read
}

// Run keeps one Reader running for each wanted project until ctx is done.
func (p *Projects) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		stops := map[call.Project]context.CancelFunc{}
		for {
			for project, stop := range stops {
				if !p.wants(project) {
					stop()
					delete(stops, project)
					p.setReader(project, nil)
				}
			}
			for _, project := range p.wantedNow() {
				if stops[project] != nil {
					continue
				}
				reader := NewReader(p.config(project))
				rctx, stop := context.WithCancel(ctx)
				stops[project] = stop
				p.setReader(project, reader)
				g.Go(func() error { return reader.Run(rctx) })
			}
			select {
			case <-p.changed:
			case <-ctx.Done():
				for _, stop := range stops {
					stop()
				}
				return nil
			}
		}
	})
	return g.Wait()
}

// Reading is the reading of a pod's own project.
func (p *Projects) Reading(pod *call.Pod, now time.Time) call.Reading {
	r, err := p.reader(pod.Project)
	if err != nil {
		return call.Unknown("%s", err)
	}
	reading := r.Reading(pod.UID, now)
	unattributed, unread := r.Unattributed(), r.Unread(now)
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
	r, err := p.reader(pod.Project)
	if err != nil {
		return nil
	}
	return r.RoomSIDs(pod.UID)
}

// Ask is the reading of a pod's own project, as of its latest sweep.
func (p *Projects) Ask(_ context.Context, pod *call.Pod) call.Reading {
	return p.Reading(pod, time.Now())
}

// Fresh returns nil when what is known of a project can be believed, else why not.
func (p *Projects) Fresh(project call.Project, now time.Time) error {
	r, err := p.reader(project)
	if err != nil {
		return err
	}
	return r.Fresh(now)
}

func (p *Projects) reader(project call.Project) (*Reader, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.readers[project]; r != nil {
		return r, nil
	}
	if project == call.DefaultProject && p.cfg.Default == nil {
		return nil, fmt.Errorf("there is no default LiveKit project; set --livekit-url, or name a Secret in annotation %s of the pod template", call.SecretAnnotation)
	}
	if read, wanted := p.wanted[project]; wanted && !read {
		return nil, fmt.Errorf("LiveKit project %s is not read: the pods of its namespace name more than %d in annotation %s; let workloads share a Secret", project, maxProjects, call.SecretAnnotation)
	}
	return nil, fmt.Errorf("LiveKit project %s has not been read yet", project)
}

// verifiers returns the readers that an API key belongs to.
func (p *Projects) verifiers(apiKey string) map[call.Project]*Reader {
	p.mu.RLock()
	defer p.mu.RUnlock()
	found := map[call.Project]*Reader{}
	for project, r := range p.readers {
		if r.Secret(apiKey) != "" {
			found[project] = r
		}
	}
	return found
}

func (p *Projects) setReader(project call.Project, r *Reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r == nil {
		delete(p.readers, project)
		return
	}
	p.readers[project] = r
}

func (p *Projects) wants(project call.Project) bool { return slices.Contains(p.wantedNow(), project) }

func (p *Projects) wantedNow() []call.Project {
	p.mu.RLock()
	defer p.mu.RUnlock()
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

func (p *Projects) config(project call.Project) Config {
	credentials := p.cfg.Default
	if secret, ok := project.Secret(); ok {
		credentials = func(ctx context.Context) (livekit.Credentials, error) { return p.cfg.Secret(ctx, secret) }
	}
	return Config{
		Project:     project,
		Credentials: credentials,
		Transport:   p.cfg.Transport,
		Budget:      p.budget,
		Pace:        p.paces.of,
		Settings:    p.cfg.Settings,
		OnChange:    p.cfg.OnChange,
		Metrics:     p.cfg.Metrics,
		Log:         p.cfg.Log,
	}
}

// paces are those of the projects of a process, by their credentials: two Secrets with
// the same share one, and a project that nobody wants for a while keeps its own. A Secret
// with the wrong key takes nothing from one with the right.
type paces struct {
	perMinute int

	mu   sync.Mutex
	made map[livekit.Credentials]*livekit.Pace
}

// maxPaces bounds the credentials that are remembered, at some 1 KiB each.
const maxPaces = 4096

func newPaces(perMinute int) *paces {
	return &paces{perMinute: perMinute, made: map[livekit.Credentials]*livekit.Pace{}}
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
	pace := livekit.NewPace(livekit.Limit(p.perMinute, creds.URL))
	p.made[creds] = pace
	return pace
}
