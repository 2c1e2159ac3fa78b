// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// credentialsLife is how long credentials are used before they are read again.
	credentialsLife = time.Minute
	// credentialsRetry is how soon they are read again after they were missing, or
	// LiveKit refused them.
	credentialsRetry = time.Second
	// hintLife is how long the word of a webhook counts, and hintRetry how soon a
	// room is read again whose list does not bear it out yet.
	hintLife  = 10 * time.Second
	hintRetry = 200 * time.Millisecond
	// maxHints bounds the words of webhooks that are kept. Past that, rooms are
	// still read at once.
	maxHints = 10_000
)

// Config is what a Reader needs.
type Config struct {
	Project call.Project
	// Credentials are asked for at the start, after LiveKit refused them, and
	// every minute.
	Credentials func(context.Context) (Credentials, error)
	Transport   http.RoundTripper
	// Budget is what all answers under way of the process may take; nil is one of
	// the Reader's own.
	Budget *semaphore.Weighted
	Settings

	// OnChange is told the pods whose number of calls changed.
	OnChange func([]types.UID)
	Metrics  *Metrics
	Log      *slog.Logger
}

// Settings are the times and bounds of reading a project.
type Settings struct {
	// Resync is the longest that a change goes unseen without webhooks.
	Resync time.Duration
	// MaxStaleness is the age from which what is known of a project is not
	// believed any more.
	MaxStaleness time.Duration
	// Timeout bounds one request.
	Timeout time.Duration
	// Concurrency bounds the requests under way.
	Concurrency int
}

// confirm, sweepEvery and doubt divide the resync: a sweep begins every 0.7 to
// 0.8 of it, and what is missing in one is asked for again a tenth later.
func (s Settings) confirm() time.Duration    { return s.Resync / 10 }
func (s Settings) sweepEvery() time.Duration { return wait.Jitter(s.Resync*7/10, 1.0/7) }
func (s Settings) doubt() time.Duration      { return s.Resync / 2 }

// Reader reads one LiveKit project. Its methods are safe for concurrent use.
type Reader struct {
	cfg   Config
	queue workqueue.TypedDelayingInterface[string] // rooms to be read

	mu       sync.RWMutex
	book     *book
	sweptAt  time.Time // when the latest whole sweep began; zero before the first
	sweeping bool
	lastErr  error
	hints    map[string]hint // by participant sid
	client   *client         // nil until there are credentials
	loadedAt time.Time
	loadErr  error
}

// hint is what a webhook said of an agent's participant.
type hint struct {
	room  string
	left  bool
	until time.Time
}

// NewReader returns a Reader that does nothing until Run.
func NewReader(cfg Config) *Reader {
	if cfg.Budget == nil {
		cfg.Budget = newBudget()
	}
	return &Reader{
		cfg:   cfg,
		queue: workqueue.NewTypedDelayingQueue[string](),
		book:  newBook(cfg.confirm(), cfg.doubt()),
		hints: map[string]hint{},
	}
}

// Run reads until ctx is done. An unreachable LiveKit is not an error: it is
// tried again, and its readings are unknown meanwhile.
func (r *Reader) Run(ctx context.Context) error {
	defer r.cfg.Metrics.forget(r.cfg.Project)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		r.queue.ShutDown()
		return nil
	})
	for range r.cfg.Concurrency {
		g.Go(func() error { r.readQueued(ctx); return nil })
	}
	g.Go(func() error { r.sweepForEver(ctx); return nil })
	return g.Wait()
}

func (r *Reader) sweepForEver(ctx context.Context) {
	retry := r.retryDelays()
	failing := false
	for ctx.Err() == nil {
		pause := r.cfg.sweepEvery()
		err := r.sweep(ctx, time.Now(), failing)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = retry.Step()
			if !failing {
				r.cfg.Log.Warn("Cannot read LiveKit; its pods will be unknown", "project", r.cfg.Project, "err", err, "after", r.cfg.MaxStaleness)
			}
		case failing:
			r.cfg.Log.Info("LiveKit answers again", "project", r.cfg.Project)
		}
		if err == nil {
			retry = r.retryDelays()
		}
		failing = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// retryDelays grow from a thirtieth to a fifth of the resync, with jitter.
func (r *Reader) retryDelays() wait.Backoff {
	return wait.Backoff{Duration: r.cfg.Resync / 30, Factor: 2, Jitter: 0.5, Steps: 1 << 30, Cap: r.cfg.Resync / 5}
}

// sweep reads every room that LiveKit lists and every room that the book knows.
func (r *Reader) sweep(ctx context.Context, began time.Time, afterOutage bool) (err error) {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sweeping = false
		r.lastErr = err
		if err != nil {
			r.book.outageOver(time.Now()) // not before now: the rooms that webhooks name are read meanwhile
		} else {
			r.sweptAt = began
			r.book.sweptSince(began)
			r.dropHints(began)
		}
		r.cfg.Metrics.swept(r.cfg.Project, r.sweptAt, len(r.book.rooms), r.book.unattributed)
	}()
	c, err := r.connect(ctx, began)
	if err != nil {
		return err
	}
	var names []string
	err = r.observe("ListRooms", func() (err error) { names, err = c.listRooms(ctx); return err })
	if err != nil {
		return err
	}

	r.mu.Lock()
	r.sweeping = true
	if afterOutage {
		r.book.outageOver(time.Now())
	}
	todo := make(map[string]struct{}, len(names))
	for _, name := range names {
		todo[name] = struct{}{}
	}
	for name := range r.book.rooms {
		todo[name] = struct{}{}
	}
	r.mu.Unlock()

	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.cfg.Concurrency)
	for room := range todo {
		g.Go(func() error { return r.read(gctx, c, room) })
	}
	return g.Wait()
}

// readQueued reads the rooms that a webhook named or that need a second look.
// An error is left to the sweeps.
func (r *Reader) readQueued(ctx context.Context) {
	for {
		room, shutdown := r.queue.Get()
		if shutdown {
			return
		}
		if c, err := r.connect(ctx, time.Now()); err == nil {
			if err := r.read(ctx, c, room); err != nil {
				r.cfg.Log.Debug("Cannot read a room; the next sweep will", "project", r.cfg.Project, "err", err)
			}
		}
		r.queue.Done(room)
	}
}

func (r *Reader) read(ctx context.Context, c *client, room string) error {
	at := time.Now()
	participants, err := r.participants(ctx, c, room)
	if err != nil {
		return err
	}

	agents := agentsOf(participants)
	r.mu.Lock()
	if r.book.seats+len(agents) > maxAgents {
		r.mu.Unlock()
		return fmt.Errorf("LiveKit project %s has more than %d agents in its rooms, which is more than callguard counts", r.cfg.Project, maxAgents)
	}
	changed := r.book.apply(room, agents, at, r.sweeping || r.lastErr != nil, func(sid string) bool { return r.hints[sid].left })
	if again, ok := r.again(room, participants, changed.missing); ok {
		r.queue.AddAfter(room, again)
	}
	r.mu.Unlock()

	if len(changed.pods) > 0 && r.cfg.OnChange != nil {
		r.cfg.OnChange(changed.pods)
	}
	return nil
}

// participants asks who is in a room. Where LiveKit asks the room's node for that,
// nobody answers for a room that has closed, nor for one whose node is silent; so it
// is asked whether there is such a room. An error is left where there is, or where
// that is not known either. What is asked is the room as of now, not the list of a
// sweep: it may have closed since.
func (r *Reader) participants(ctx context.Context, c *client, room string) (in []*livekit.ParticipantInfo, err error) {
	err = r.observe("ListParticipants", func() (err error) { in, err = c.listParticipants(ctx, room); return err })
	if _, ok := errors.AsType[*errNobodyAnswered](err); !ok {
		return in, err
	}
	var there []string
	if r.observe("ListRooms", func() (err error) { there, err = c.listRooms(ctx, room); return err }) != nil || slices.Contains(there, room) {
		return nil, err
	}
	return nil, nil
}

// again says whether and how soon a room wants another look: because a webhook
// knows more than its list, or because a seat is missing.
func (r *Reader) again(room string, participants []*livekit.ParticipantInfo, missing bool) (time.Duration, bool) {
	now := time.Now()
	listed := make(map[string]bool, len(participants))
	for _, p := range participants {
		listed[p.GetSid()] = true
	}
	unmet := false
	for sid, h := range r.hints {
		switch {
		case h.room != room:
		case listed[sid] != h.left:
			delete(r.hints, sid)
		case now.Before(h.until):
			unmet = true
		}
	}
	switch {
	case unmet:
		return hintRetry, true
	case missing:
		return max(r.cfg.confirm(), r.book.doubtUntil.Sub(now)), true
	}
	return 0, false
}

// Heed reads a room at once because of a webhook event. What the event says of
// an agent is borne in mind until the room's list says the same.
func (r *Reader) Heed(event *livekit.WebhookEvent) {
	room := event.GetRoom().GetName()
	if room == "" || len(room) > maxField || len(event.GetParticipant().GetSid()) > maxField {
		return // LiveKit has none of that length
	}
	if p := event.GetParticipant(); p.GetKind() == livekit.ParticipantInfo_AGENT {
		r.mu.Lock()
		if len(r.hints) < maxHints {
			switch event.GetEvent() {
			case "participant_joined", "participant_left", "participant_connection_aborted":
				r.hints[p.GetSid()] = hint{room: room, left: event.GetEvent() != "participant_joined", until: time.Now().Add(hintLife)}
			}
		}
		r.mu.Unlock()
	}
	r.queue.Add(room)
}

func (r *Reader) dropHints(now time.Time) {
	for sid, h := range r.hints {
		if now.After(h.until) {
			delete(r.hints, sid)
		}
	}
}

// connect returns a client with credentials not older than a minute, or the
// earlier ones where they cannot be read any more: they hold until LiveKit
// refuses them, so that a silent Kubernetes API does not stop the count.
func (r *Reader) connect(ctx context.Context, now time.Time) (*client, error) {
	r.mu.RLock()
	c, age, loadErr, refused := r.client, now.Sub(r.loadedAt), r.loadErr, denied(r.lastErr)
	r.mu.RUnlock()
	life := credentialsLife
	if loadErr != nil || refused {
		life = credentialsRetry
	}
	if age < life && (c != nil || loadErr != nil) {
		return orElse(c, loadErr)
	}
	creds, err := r.cfg.Credentials(ctx)
	if err == nil {
		err = creds.Validate()
	}
	if err != nil {
		err = fmt.Errorf("no credentials for LiveKit project %s: %w", r.cfg.Project, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loadedAt, r.loadErr = now, err
	if err == nil && (r.client == nil || r.client.creds != creds) {
		r.client = newClient(creds, r.cfg.Transport, r.cfg.Budget, r.cfg.Timeout)
	}
	return orElse(r.client, err)
}

func orElse(c *client, err error) (*client, error) {
	if c != nil {
		return c, nil
	}
	return nil, err
}

// Secret returns the secret of an API key, or nothing if the project's key is
// another one. It makes the Reader an auth.KeyProvider for one key.
func (r *Reader) Secret(apiKey string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.client == nil || r.client.creds.APIKey != apiKey {
		return ""
	}
	return r.client.creds.APISecret
}

// Reading says how many calls a pod holds in this project.
func (r *Reader) Reading(pod types.UID, now time.Time) call.Reading {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := r.fresh(now); err != nil {
		return call.Unknown("%s", err)
	}
	return r.book.reading(pod, r.sweptAt, now)
}

// Unattributed returns the number of agents in the project's rooms that name no
// pod.
func (r *Reader) Unattributed() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.book.unattributed
}

// Fresh returns nil when what is known of the project can be believed, else why
// not.
func (r *Reader) Fresh(now time.Time) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.fresh(now)
}

func (r *Reader) fresh(now time.Time) error {
	cause := r.lastErr
	if cause == nil {
		cause = errors.New("still reading")
	}
	switch {
	case r.sweptAt.IsZero():
		return fmt.Errorf("LiveKit project %s has not been read yet: %w", r.cfg.Project, cause)
	case now.Sub(r.sweptAt) > r.cfg.MaxStaleness:
		return fmt.Errorf("LiveKit project %s was last read at %s, over %s ago: %w",
			r.cfg.Project, r.sweptAt.UTC().Format(time.RFC3339), r.cfg.MaxStaleness, cause)
	}
	return nil
}

func (r *Reader) observe(method string, ask func() error) error {
	began := time.Now()
	err := ask()
	r.cfg.Metrics.asked(r.cfg.Project, method, time.Since(began), err)
	return err
}
