// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
	"github.com/callguard/callguard/pkg/livekit"
)

const (
	// credentialsLife is how long credentials are used before they are read again.
	credentialsLife = time.Minute
	// credentialsRetry is how soon they are read again if they were missing, or if LiveKit
	// refused them.
	credentialsRetry = time.Second
	// maxItems is the maximum number of rooms, or of participants of one room, for a project
	// that a namespace names: the namespace chooses its server, and the server's answers take
	// memory that all share.
	maxItems = 25_000
	// maxQueued is how many rooms may wait to be read out of turn; others are left to the
	// sweeps.
	maxQueued = 1_000
	// keptStep is the step in which memory is charged, in bytes.
	keptStep = 64 << 10
)

// Config is what a Reader needs.
type Config struct {
	Project call.Project
	// Credentials is called at the start, after LiveKit refused the credentials, and every
	// minute.
	Credentials func(context.Context) (livekit.Credentials, error)
	Transport   http.RoundTripper
	// Budget is the memory for all answers that the process is reading; nil means one of the
	// Reader's own.
	Budget *livekit.Budget
	// Kept is the memory that all projects of the process may keep; nil means one of the
	// Reader's own.
	Kept *shares
	// Pace returns the pace of requests with these credentials; nil means one of the Reader's
	// own.
	Pace func(livekit.Credentials) *livekit.Pace
	Settings

	// Twice keeps everything unknown until all rooms were read twice. It is for a project that
	// was at rest: a room that is missing from a list for a moment was in no earlier list that
	// could show that.
	Twice bool
	// Swept, if set, is called after each successful sweep.
	Swept func()
	// OnChange is called with the pods whose number of calls has changed.
	OnChange func([]types.UID)
	// Lengths returns the table that learns the lengths of a pod's calls, or nil.
	Lengths func(types.UID) *lengths.Table
	Metrics *Metrics
	Log     *slog.Logger
}

// Settings are the times and bounds of reading a project.
type Settings struct {
	// Resync is the maximum time for which a change is not seen without webhooks. With
	// webhooks, rooms that neither they nor the list of rooms show as changed are read more
	// rarely.
	Resync time.Duration
	// MaxStaleness is the age from which what is known of a project counts as unknown.
	MaxStaleness time.Duration
	// Timeout is the time limit of one request.
	Timeout time.Duration
	// Concurrency is the maximum number of concurrent requests.
	Concurrency int
	// RequestsPerMinute is how many requests a project accepts from all programs together; 0
	// means the limit that livekit.Limit returns.
	RequestsPerMinute int
	// Share is this program's part of them, for all its replicas together, in hundredths; 0
	// means all of them.
	Share int
	// Hints lets a room count as read while its entry in the list of rooms does not change.
	Hints bool
	// WaitAfter is how long a room has had a caller and no agent before LiveKit is asked
	// whether it waits for one; 0 means never.
	WaitAfter time.Duration
}

// confirm, sweepEvery and doubt divide the resync: a sweep begins every 0.7 to 0.8 of it,
// and a room with something missing is read again a tenth of it later.
func (s Settings) confirm() time.Duration    { return s.Resync / 10 }
func (s Settings) sweepEvery() time.Duration { return wait.Jitter(s.Resync*7/10, 1.0/7) }
func (s Settings) doubt() time.Duration      { return s.Resync / 2 }

// After sweepMost a sweep reads no further rooms, because LiveKit takes 3 s to report a
// room whose node is dead. The remaining rooms come first in the next sweep.
func (s Settings) sweepMost() time.Duration { return s.MaxStaleness / 3 }

// holdsUp is how long a room that cannot be read makes its whole project unknown, and
// unreadAfter is from when a room that could never be read counts as one that may hold a
// call of any pod. With hints, a short time of not knowing matters less than having a
// number.
func (s Settings) holdsUp() time.Duration {
	if s.Hints {
		return 0
	}
	return s.MaxStaleness / 5
}

func (s Settings) unreadAfter() time.Duration {
	if s.Hints {
		return s.MaxStaleness
	}
	return 0
}

// calmly is how much time a room adds to the time between two sweeps of a few rooms: fifty requests a second.
const calmly = 20 * time.Millisecond

// listShare is the part of the limit that lists of rooms may take: one in so many.
const listShare = 4

// Reader reads one LiveKit project. Its methods are safe for concurrent use.
type Reader struct {
	cfg   Config
	queue workqueue.TypedDelayingInterface[string] // rooms to be read
	looks workqueue.TypedDelayingInterface[string] // rooms that may wait for an agent

	mu       sync.RWMutex
	book     *book
	roll     *roll
	sweptAt  time.Time     // as of when all rooms are known; zero before the first whole sweep
	once     time.Time     // when the first whole sweep was over, with cfg.Twice
	waiting  int           // rooms that were left to the next sweep because of the limit
	between  int           // rooms that were read out of turn since the latest sweep began
	perRoom  time.Duration // time for a room in the latest sweep, including rooms that were read out of turn
	lost     bool          // the latest list lacks the rooms of more than half of all seats
	sweeping bool
	lastErr  error
	hints    *hints
	rarity   *rarity
	waits    *waits
	held     int64           // how much of cfg.Kept is taken, in bytes
	client   *livekit.Client // nil until there are credentials
	loadedAt time.Time
	loadErr  error

	unread atomic.Pointer[unread] // nil after the roll has changed
}

// unread is how many rooms could not be read, at some time.
type unread struct {
	at time.Time
	n  int
}

// maxItems returns the project's maximum number of items: the administrator's own project
// is limited only by memory.
func (c Config) maxItems() int {
	if namespaceOf(c.Project) == "" {
		return 0
	}
	return maxItems
}

// NewReader returns a Reader that does nothing until Run.
func NewReader(cfg Config) *Reader {
	if cfg.Budget == nil {
		cfg.Budget = livekit.NewBudget()
	}
	if cfg.Kept == nil {
		cfg.Kept = newKept()
	}
	if cfg.Pace == nil {
		cfg.Pace = newPaces(cfg.Settings, nil).of
	}
	book := newBook(cfg.confirm(), cfg.doubt())
	book.lengths = cfg.Lengths
	return &Reader{
		cfg:   cfg,
		queue: workqueue.NewTypedDelayingQueue[string](),
		looks: workqueue.NewTypedDelayingQueue[string](),
		book:  book,
		roll:  newRoll(cfg.Hints),
		hints: newHints(), rarity: newRarity(), waits: newWaits(),
	}
}

// Run reads until ctx is done. An unreachable LiveKit is not an error: Run tries again, and
// readings are unknown meanwhile.
func (r *Reader) Run(ctx context.Context) error {
	defer r.cfg.Metrics.forget(r.cfg.Project)
	defer r.keepNothing()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		r.queue.ShutDown()
		r.looks.ShutDown()
		return nil
	})
	if r.cfg.WaitAfter > 0 {
		for range askers {
			g.Go(func() error { r.lookForEver(ctx); return nil })
		}
	}
	for range r.cfg.Concurrency {
		g.Go(func() error { r.readQueued(ctx); return nil })
	}
	g.Go(func() error { r.sweepForEver(ctx); return nil })
	return g.Wait()
}

func (r *Reader) sweepForEver(ctx context.Context) {
	retry := r.retryDelays()
	var failed error
	for ctx.Err() == nil {
		began, every := time.Now(), r.sweepEvery(time.Now())
		waiting, err := r.sweep(ctx, began, every, isOutage(failed))
		if ctx.Err() != nil {
			return
		}
		pause := every
		tooMany, limited := errors.AsType[*livekit.TooMany](err)
		_, refused := errors.AsType[*livekit.Refused](err)
		switch {
		case err == nil:
			retry = r.retryDelays()
			switch {
			case waiting: // it waits for the limit, not for the next sweep's time
				pause = max(r.cfg.confirm(), every-time.Since(began))
			case r.halfKnown(): // LiveKit may have been away until just now
				pause = r.cfg.doubt()
			}
			if r.cfg.Swept != nil {
				r.cfg.Swept()
			}
		case limited:
			pause = max(r.cfg.confirm(), time.Until(tooMany.Until))
		case refused: // it is reachable, so it is not asked more often because of a refusal
		default:
			pause = retry.Step()
		}
		switch {
		case err != nil && failed == nil:
			r.cfg.Log.Warn("Cannot read LiveKit; the calls of its pods will be unknown", "project", r.cfg.Project, "err", err, "after", r.cfg.MaxStaleness, "detail", livekit.Detail(err))
		case err == nil && failed != nil:
			r.cfg.Log.Info("LiveKit answers again", "project", r.cfg.Project)
		}
		failed = err
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// halfKnown reports whether all rooms were read once and have to be read once more, because
// of cfg.Twice.
func (r *Reader) halfKnown() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return !r.once.IsZero() && r.sweptAt.IsZero()
}

// quick reports whether all rooms are known, and could be read twice within the resync
// interval after a rest. Then nobody has to wait long for them.
func (r *Reader) quick(now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.client == nil || r.lastErr != nil || r.fresh(now) != nil {
		return false
	}
	rooms := len(r.roll.places)
	return r.client.Pace().Rested(2*(rooms+1), now)+2*time.Duration(rooms)*r.perRoom <= r.cfg.Resync
}

// isOutage reports whether LiveKit may have lost rooms since the error. That is not so if
// only the request limit was reached.
func isOutage(err error) bool {
	_, limited := errors.AsType[*livekit.TooMany](err)
	return err != nil && !limited
}

// sweepEvery is how often a sweep begins: not so often that lists of rooms take more
// than their share of the limit. Where every room is read in each, a few rooms are swept
// up to three times as often.
func (r *Reader) sweepEvery(now time.Time) time.Duration {
	every := r.cfg.sweepEvery()
	if !r.cfg.Hints {
		r.mu.RLock()
		every = min(every, max(every/3, calmly*time.Duration(len(r.roll.places))))
		r.mu.RUnlock()
	}
	if pace := r.pace(); pace != nil {
		every = max(every, pace.Evenly(listShare, now))
	}
	return every
}

// retryDelays returns delays that grow from a thirtieth to a fifth of the resync interval,
// with jitter.
func (r *Reader) retryDelays() wait.Backoff {
	return wait.Backoff{Duration: r.cfg.Resync / 30, Factor: 2, Jitter: 0.5, Steps: 1 << 30, Cap: r.cfg.Resync / 5}
}

// sweep lists the rooms and reads those that are in the list or in the book, as many as the
// limit allows until the next sweep. Rooms whose entry in the list has changed come first.
// It reports whether rooms that have to be read are left to the next sweep.
//
// A room that cannot be read does not end the sweep: only its own seats are in doubt.
func (r *Reader) sweep(ctx context.Context, began time.Time, every time.Duration, afterOutage bool) (waiting bool, err error) {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sweeping = false
		r.lastErr = err
		switch {
		case isOutage(err):
			r.book.outageOver(time.Now()) // not earlier, because rooms that webhooks name are read meanwhile
		case err == nil:
			whole := r.roll.whole(r.cfg.holdsUp(), time.Now())
			switch {
			case r.cfg.Twice && r.once.IsZero() && !whole.IsZero():
				r.once = time.Now()
			case r.cfg.Twice && !whole.After(r.once):
			case whole.After(r.sweptAt):
				r.sweptAt = whole
				r.book.sweptSince(whole)
			}
			r.hints.dropOld(began)
		}
		r.cfg.Metrics.swept(r.cfg.Project, r.sweptAt, len(r.book.rooms), r.book.unattributed, r.roll.unread(0, time.Now()), r.waitsNow())
	}()
	c, err := r.connect(ctx, began)
	if err != nil {
		return false, err
	}
	list, err := c.Rooms(ctx)
	if err != nil {
		return false, err
	}

	r.mu.Lock()
	more := -r.roll.size
	for _, info := range list {
		more += placeSize(info)
	}
	if err := r.keep(max(0, more)); err != nil {
		r.mu.Unlock()
		return false, err
	}
	r.sweeping = true
	if afterOutage {
		r.book.outageOver(time.Now())
	}
	r.unread.Store(nil)
	r.roll.list(list, began, func(room string) bool { return r.book.rooms[room] != nil })
	r.waits.swept(began, func(room string) bool { p := r.roll.places[room]; return p != nil && p.listed })
	unlisted := 0
	for name, entry := range r.book.rooms {
		if p := r.roll.places[name]; p == nil || !p.listed {
			unlisted += len(entry.seats)
		}
	}
	lost := muchOf(unlisted, r.book.seats)
	if lost && !r.lost {
		r.book.outageOver(time.Now())
	}
	r.lost = lost
	must, others := r.roll.todo(r.cfg.Concurrency)
	most, evenly := c.Pace().Within(every, time.Now())
	// Rooms that are read again without a sign of a change take no more than half of the
	// limit, and no more than webhooks have left of it since the previous sweep.
	n := min(len(must), most)
	left := evenly - r.between
	r.between = 0
	again := len(others)
	if r.cfg.Hints {
		failed := min(len(r.roll.failed), again) // failed rooms come first
		again = failed + r.rarity.next(again-failed, time.Now())
	}
	spare := max(0, min(most-n, evenly/2, left-n, again))
	if !r.cfg.Hints && len(others) > 0 && spare == 0 && most > 1 {
		// All others could not be read. Even if the limit is short, one of them has its turn.
		spare, n = 1, min(n, most-1)
	}
	if r.sweptAt.IsZero() && len(must) > 0 {
		spare = 0 // nothing is known until the end of this sweep
	}
	todo := append(must[:n:n], others[:min(len(others), spare)]...)
	r.waiting = len(must) - n
	r.mu.Unlock()

	s := &sweeping{}
	g := errgroup.Group{}
	g.SetLimit(r.cfg.Concurrency)
	begun, first := 0, time.Now()
	for _, room := range todo {
		if s.stopped() || ctx.Err() != nil || time.Since(began) > r.cfg.sweepMost() {
			break
		}
		begun++
		g.Go(func() error { s.enter(r.read(ctx, c, room, true)); return nil })
	}
	_ = g.Wait() // none returns an error
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting += max(0, n-begun) + s.unasked
	if begun > 0 {
		r.perRoom = time.Since(first) / time.Duration(begun)
	}
	return r.waiting > 0, errors.Join(ctx.Err(), s.over())
}

// sweeping collects the results of one sweep.
type sweeping struct {
	mu                     sync.Mutex
	tried, failed, unasked int
	last                   error
	tooMany                *livekit.TooMany
	past                   error // a pastShare
}

func (s *sweeping) enter(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tooMany, ok := errors.AsType[*livekit.TooMany](err); ok {
		s.unasked++
		if s.tooMany == nil || tooMany.Told {
			s.tooMany = tooMany
		}
		return
	}
	s.tried++
	if _, ok := errors.AsType[pastShare](err); ok {
		s.past = err
	}
	if err != nil && !livekit.Unanswered(err) { // otherwise a node does not answer, not LiveKit
		s.failed, s.last = s.failed+1, err
	}
}

// stopped reports whether no further room may be asked for now.
func (s *sweeping) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tooMany != nil
}

// over returns why the sweep is of no use for the project: the limit was reached, most
// rooms could not be read, or one could not be kept.
func (s *sweeping) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.tooMany != nil && s.tooMany.Told:
		return s.tooMany
	case s.past != nil:
		return s.past
	case muchOf(s.failed, s.tried):
		return s.last
	default:
		return nil
	}
}

// readQueued reads the rooms that a webhook named or that need a second look. Failures are
// left to the sweeps.
func (r *Reader) readQueued(ctx context.Context) {
	for {
		room, shutdown := r.queue.Get()
		if shutdown {
			return
		}
		if c, err := r.connect(ctx, time.Now()); err == nil {
			if err := r.read(ctx, c, room, false); err != nil {
				r.cfg.Log.Debug("Cannot read a room; retrying", "project", r.cfg.Project, "err", err)
			}
		}
		r.queue.Done(room)
	}
}

// read reads a room, in a sweep's turn or for a special reason.
func (r *Reader) read(ctx context.Context, c *livekit.Client, room string, inTurn bool) error {
	at := time.Now()
	in, listed, err := r.participants(ctx, c, room)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.mu.Lock()
	if err == nil {
		err = r.keep(r.book.growth(room, in.Agents))
	}
	if err != nil {
		if _, limited := errors.AsType[*livekit.TooMany](err); !limited { // otherwise no request was sent
			r.unread.Store(nil)
			r.roll.asked(room, at, livekit.Counts{}, err)
		}
		r.mu.Unlock()
		return err
	}
	if _, _, failed := r.roll.failing(room); failed != nil && r.book.rooms[room] != nil {
		r.book.outageOver(at) // the room's node may have lost it
	}
	r.unread.Store(nil)
	told := r.roll.isNamed(room)
	r.roll.asked(room, at, in.Counts, nil)
	changed := r.book.apply(room, in.Agents, at, r.sweeping || r.lastErr != nil, func(sid string) bool { return r.hints.left(room, sid) })
	_ = r.keep(0) // this returns what was charged too much
	r.noteWait(room, in, at)
	if !inTurn {
		r.between++
	}
	if inTurn && !told && (len(changed.pods) > 0 || changed.missing) {
		r.rarity.finds(room, at)
	}
	if changed.much {
		r.book.outageOver(time.Now()) // the answer may have taken longer than the doubt lasts
	}
	if again, ok := r.again(room, listed, changed.missing); ok {
		r.queue.AddAfter(room, again)
	}
	r.mu.Unlock()

	if len(changed.pods) > 0 && r.cfg.OnChange != nil {
		r.cfg.OnChange(changed.pods)
	}
	return nil
}

// newKept returns the limits of memory that namespaces' projects may keep in this process.
// The default project, the administrator's own, has no limit.
func newKept() *shares { return newShares(math.MaxInt64, 2<<20, 32<<20, 64<<20) }

// pastShare is the error of a project whose rooms may not be kept, so that it is unknown.
type pastShare struct{ error }

func (p pastShare) Unwrap() error { return p.error }

// keep charges the memory for the project, and the given number of additional bytes, to its
// namespace. It fails if the namespace may not have more. The lock is held.
func (r *Reader) keep(more int64) error {
	namespace := namespaceOf(r.cfg.Project)
	need := (r.roll.size + r.book.size + waitSize*int64(len(r.waits.rooms)) + more + keptStep - 1) / keptStep * keptStep
	switch {
	case need > r.held && !r.cfg.Kept.take(namespace, need-r.held):
		return pastShare{&livekit.Refused{
			Answer: fmt.Sprintf("the rooms of LiveKit project %s take more memory than its namespace may have", r.cfg.Project),
			Cure:   "32 MiB are for each namespace, some 25,000 calls, and 64 MiB for all, but for 2 MiB that each has in any case; the default project has no such bound",
		}}
	case need < r.held:
		r.cfg.Kept.giveBack(namespace, r.held-need)
	}
	r.held = need
	return nil
}

// keepNothing returns everything that was charged.
func (r *Reader) keepNothing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	namespace := namespaceOf(r.cfg.Project)
	r.cfg.Kept.giveBack(namespace, r.held)
	r.held = 0
}

// participants asks who is in a room, and lists its agents by their ids. If LiveKit asks the room's node for
// that, there is no answer for a room that has closed, nor for one whose node does not answer. So participants
// also asks whether the room exists, and returns an error only if it does or if that is unknown, too. It asks
// for the present state, because the room may have closed since the sweep's list.
func (r *Reader) participants(ctx context.Context, c *livekit.Client, room string) (livekit.Room, map[string]bool, error) {
	in, err := c.Participants(ctx, room)
	if livekit.Unanswered(err) {
		there, failed := c.Rooms(ctx, room)
		if failed == nil && !slices.ContainsFunc(there, func(info livekit.RoomInfo) bool { return info.Name == room }) {
			err = nil
		}
	}
	if err != nil {
		return livekit.Room{}, nil, err
	}
	listed := make(map[string]bool, len(in.Agents))
	for _, a := range in.Agents {
		listed[a.SID] = true
	}
	return in, listed, nil
}

// again reports whether and how soon a room has to be read again, because a webhook knows
// more than the room's list, or because a seat is missing.
func (r *Reader) again(room string, listed map[string]bool, missing bool) (time.Duration, bool) {
	now := time.Now()
	unmet := r.hints.unmet(room, listed, now)
	switch {
	case unmet:
		return hintRetry, true
	case missing:
		return max(r.cfg.confirm(), r.book.doubtUntil.Sub(now)), true
	}
	return 0, false
}

// Heed reads a room at once if a webhook event may change the count. What the event says
// about an agent is remembered until the room's list confirms it.
func (r *Reader) Heed(event Event) {
	if event.Room == "" || len(event.Room) > maxHinted || len(event.Participant) > maxHinted {
		return // left to the sweeps
	}
	r.mu.Lock()
	r.heedCaller(event)
	if !event.matters(r.book.rooms[event.Room] != nil, r.book.names(event.Room, event.Participant)) && !event.leaves(r.waits.rooms[event.Room] != nil) {
		r.mu.Unlock()
		return
	}
	r.roll.name(event.Room)
	r.rarity.tells(event.Room)
	if event.Agent {
		switch event.Name {
		case "participant_joined", "participant_left", "participant_connection_aborted":
			r.hints.put(event.Room, event.Participant, hint{left: event.Name != "participant_joined", until: time.Now().Add(hintLife)})
		}
	}
	r.mu.Unlock()
	if r.queue.Len() < maxQueued {
		r.queue.Add(event.Room)
	}
}

// connect returns a client with credentials that are not older than a minute, or with
// earlier ones if they can no longer be read. These are used until LiveKit refuses them, so
// that an unreachable Kubernetes API does not stop counting.
func (r *Reader) connect(ctx context.Context, now time.Time) (*livekit.Client, error) {
	r.mu.RLock()
	c, age, loadErr, refused := r.client, now.Sub(r.loadedAt), r.loadErr, livekit.Denied(r.lastErr)
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
	if err == nil && (r.client == nil || r.client.Credentials() != creds) {
		r.client, err = livekit.New(livekit.Config{
			Credentials: creds, Transport: r.cfg.Transport, Timeout: r.cfg.Timeout, Budget: r.cfg.Budget, MaxItems: r.cfg.maxItems(),
			Pace: r.cfg.Pace(creds), Patience: r.cfg.Resync,
			Asked: func(method string, took time.Duration, err error) {
				r.cfg.Metrics.asked(r.cfg.Project, method, took, err)
			},
		})
	}
	return orElse(r.client, err)
}

func orElse(c *livekit.Client, err error) (*livekit.Client, error) {
	if c != nil {
		return c, nil
	}
	return nil, err
}

// Secret returns the secret of an API key, or an empty string if the project has another
// key.
func (r *Reader) Secret(apiKey string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.client == nil || r.client.Credentials().APIKey != apiKey {
		return ""
	}
	return r.client.Credentials().APISecret
}

func (r *Reader) pace() *livekit.Pace {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.client == nil {
		return nil
	}
	return r.client.Pace()
}

// Reading returns how many calls a pod holds in this project, as of when the pod's rooms
// and the list of all rooms were read.
func (r *Reader) Reading(pod types.UID, now time.Time) call.Reading {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.reading(pod, now)
}

// reading is Reading. The lock is held.
func (r *Reader) reading(pod types.UID, now time.Time) call.Reading {
	if err := r.fresh(now); err != nil {
		return call.Unknown("%s", err)
	}
	h := r.book.pods[pod]
	reading := r.book.reading(h, r.sweptAt, now)
	if h == nil || !reading.Known() {
		return reading
	}
	at := reading.At()
	for room := range h.rooms {
		sid, known, err := r.roll.failing(room)
		if err == nil || !known.Before(at) {
			continue
		}
		at = known
		if now.Sub(known) > r.staleness(now) {
			return call.Unknown("room %s of this pod was last known at %s, over %s ago: %s",
				cmp.Or(sid, "of unknown id"), known.UTC().Format(time.RFC3339), r.staleness(now), err)
		}
	}
	n, _ := reading.Calls()
	return call.Known(n, at).WithNewest(reading.Newest())
}

// Unread returns the number of rooms that cannot be read and whose entry in the list has
// changed since they last were. It is unknown whose agents are in them.
func (r *Reader) Unread(now time.Time) int {
	if last := r.unread.Load(); last != nil && last.at.Equal(now) { // for another pod of the same request
		return last.n
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := r.roll.unread(r.cfg.unreadAfter(), now)
	r.unread.Store(&unread{now, n})
	return n
}

// RoomSIDs returns the ids of the rooms that LiveKit lists a pod's agents in.
func (r *Reader) RoomSIDs(pod types.UID) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.book.pods[pod]
	if h == nil {
		return nil
	}
	var sids []string
	for room := range h.rooms {
		sids = append(sids, r.roll.sid(room))
	}
	slices.Sort(sids)
	return sids
}

// Ages returns the minimum ages of the calls of a pod, in no order. There are none without
// Lengths, or before the first complete sweep.
func (r *Reader) Ages(pod types.UID, now time.Time) []time.Duration {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.book.ages(pod, now)
}

// Fresh returns nil if what is known of the project can be believed, otherwise why not.
func (r *Reader) Fresh(now time.Time) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.fresh(now)
}

func (r *Reader) fresh(now time.Time) error {
	cause := r.lastErr
	switch {
	case cause != nil:
	case r.waiting > 0 && r.client != nil:
		cause = fmt.Errorf("%d rooms wait for the %d requests a minute of this replica; raise --livekit-requests-per-minute as far as LiveKit takes it",
			r.waiting, r.client.Pace().Limit(now))
	default:
		cause = errors.New("still reading")
	}
	switch {
	case r.sweptAt.IsZero():
		return fmt.Errorf("LiveKit project %s has not been read yet: %w", r.cfg.Project, cause)
	case now.Sub(r.sweptAt) > r.staleness(now):
		return fmt.Errorf("LiveKit project %s was last read at %s, over %s ago: %w",
			r.cfg.Project, r.sweptAt.UTC().Format(time.RFC3339), r.staleness(now), cause)
	}
	return nil
}

// staleness returns the age from which readings count as unknown. Without hints every room
// has to be read. If that takes longer because of the limit or a slow link, it is twice the
// time that reading takes.
func (r *Reader) staleness(now time.Time) time.Duration {
	if r.cfg.Hints || r.client == nil {
		return r.cfg.MaxStaleness
	}
	rooms := len(r.roll.places)
	return max(r.cfg.MaxStaleness, 2*r.client.Pace().Evenly(rooms+listShare, now), 2*time.Duration(rooms)*r.perRoom)
}
