// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/callguard/callguard/pkg/livekit"
	"github.com/callguard/callguard/pkg/witness/worker"
)

const askTimeout = 2 * time.Second

// DefaultRequestsPerMinute limits the looks of one gate: LiveKit Cloud accepts 1,000
// requests a minute for a whole project.
const DefaultRequestsPerMinute = 60

// ends finds out which jobs have ended. On the websocket the gate sees when LiveKit says
// that an agent has left its room, and when the worker says that a job has ended. If it
// sees neither, the agent's own number of jobs decides and, if the gate has a key, the
// job's room: LiveKit Agents for Node reports no end, and after a reconnect LiveKit does
// not either.
type ends struct {
	book    *book
	now     func() time.Time
	workers []func(context.Context) (int, error) // the number of jobs of each agent
	rooms   rooms                                // nil without a key
	sight   sightings

	wake  chan struct{}
	close func()
}

// rooms is the part of LiveKit's API that is used.
type rooms interface {
	Room(ctx context.Context, name string) (livekit.Room, error)
}

func newEnds(b *book, cfg Config, transport http.RoundTripper) (*ends, error) {
	local := &http.Client{Timeout: askTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("an agent does not redirect")
	}, Transport: &http.Transport{
		Proxy:               nil, // the target is the pod itself
		DialContext:         (&net.Dialer{Timeout: askTimeout}).DialContext,
		MaxIdleConnsPerHost: 1,
	}}
	e := &ends{
		book: b, now: time.Now, wake: make(chan struct{}, 1),
		sight: sightings{book: b, log: cfg.Log, told: map[string]bool{}},
		close: local.CloseIdleConnections,
	}
	for _, u := range cfg.Workers {
		e.workers = append(e.workers, func(ctx context.Context) (int, error) { return worker.Get(ctx, local, u) })
	}
	if cfg.APIKey == "" || cfg.APISecret == "" {
		return e, nil
	}
	client, err := livekit.New(livekit.Config{
		Credentials: livekit.Credentials{URL: cfg.Upstream, APIKey: cfg.APIKey, APISecret: cfg.APISecret},
		Transport:   transport,
		Pace:        livekit.NewPace(cmp.Or(cfg.RequestsPerMinute, DefaultRequestsPerMinute)),
	})
	if err != nil {
		return nil, err
	}
	e.rooms = client
	return e, nil
}

// soon has the agents asked at once.
func (e *ends) soon() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *ends) run(ctx context.Context) error {
	for {
		e.round(ctx)
		timer := time.NewTimer(e.book.pause())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-e.book.changed:
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round asks the agents and LiveKit once.
func (e *ends) round(ctx context.Context) {
	e.ask(ctx)
	e.look(ctx)
}

// ask asks every agent for the number of its jobs.
func (e *ends) ask(ctx context.Context) {
	asked := e.now()
	sum := 0
	var err error
	if len(e.workers) == 0 {
		err = errors.New("no worker port is given")
	}
	for _, number := range e.workers {
		var n int
		if n, err = number(ctx); err != nil {
			break
		}
		sum += n
	}
	if ctx.Err() == nil {
		e.book.tell(sum, len(e.workers), err, e.rooms != nil, asked, e.now())
	}
}

// look asks LiveKit whether the agents of some jobs are still in their rooms. No answer
// changes nothing. One room's refusal says nothing about others. If LiveKit does not answer
// at all, or may not be asked now, the remaining rooms wait for the next round, and come
// first then.
func (e *ends) look(ctx context.Context) {
	if e.rooms == nil {
		return
	}
	for _, j := range e.book.look(e.now()) {
		room, err := e.rooms.Room(ctx, j.room)
		if ctx.Err() != nil {
			return
		}
		if _, ok := errors.AsType[*livekit.TooMany](err); ok {
			e.book.unasked(j.id, e.now())
			return
		}
		if err != nil {
			e.book.unseen(j.id, e.now())
			e.sight.ill(err)
			if _, ok := errors.AsType[*livekit.Refused](err); !ok {
				return
			}
			continue
		}
		e.book.saw(j.id, sight{open: room.Open, there: e.isIn(room, j)}, e.now())
		if !e.book.isBlind() {
			e.sight.well()
		}
	}
}

// isIn reports whether a job's agent is in a room. All agents may have the same identity,
// so the attribute decides which pod's agent it is. Only without the attribute the identity
// does.
func (e *ends) isIn(room livekit.Room, j job) bool {
	for _, a := range room.Agents {
		sameName := j.agent == "" || a.Identity == j.agent
		if sameName && (a.Pod == e.book.pod || a.Pod == "" && j.agent != "") {
			return true
		}
	}
	return false
}

// sightings logs when rooms can no longer be looked at, once for each cause, and when they
// all can again.
type sightings struct {
	book *book
	log  *slog.Logger
	told map[string]bool
}

func (s *sightings) ill(err error) {
	cause, cure := cause(err), "check that LiveKit runs, and the gate's LIVEKIT_URL"
	if refused, ok := errors.AsType[*livekit.Refused](err); ok {
		cause, cure = refused.Answer, refused.Cure
	}
	if s.told[cause] {
		return
	}
	s.told[cause] = true
	s.log.Warn(fmt.Sprintf("call-gate cannot look into the rooms of its jobs at LiveKit; jobs without other evidence of their end count for %s or longer; %s", s.book.limits.lack, cure), "err", cause)
}

func (s *sightings) well() {
	if len(s.told) > 0 {
		clear(s.told)
		s.log.Info("call-gate can look into the rooms of its jobs again")
	}
}
