// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/callguard/callguard/pkg/witness/worker"
)

const (
	askTimeout = 2 * time.Second
	maxRoom    = 4 << 20 // bytes of one room's participants
)

// ends finds out that jobs have ended. What LiveKit and the worker say of a job
// goes by on the websocket: its agent has left the room, or its process has ended.
// The agents' own number and, where the gate has a key, the room of a job serve
// where nothing goes by: LiveKit Agents for Node reports no end, and after a
// reconnect LiveKit does not either.
type ends struct {
	book    *book
	workers []string // URLs
	local   *http.Client

	livekit     *http.Client
	url         string
	key, secret string
	sight       sight

	wake chan struct{}
}

func newEnds(b *book, cfg Config, upstream *url.URL, transport http.RoundTripper) *ends {
	e := &ends{
		book: b, workers: cfg.Workers, wake: make(chan struct{}, 1),
		local: &http.Client{Timeout: askTimeout, Transport: &http.Transport{
			Proxy:               nil, // it is the pod itself
			DialContext:         (&net.Dialer{Timeout: askTimeout}).DialContext,
			MaxIdleConnsPerHost: 1,
		}},
		livekit: &http.Client{Timeout: askTimeout, Transport: transport},
		url:     upstream.JoinPath("/twirp/livekit.RoomService/ListParticipants").String(),
		sight:   sight{log: cfg.Log, upstream: upstream.String(), told: map[string]bool{}},
	}
	if cfg.APIKey != "" && cfg.APISecret != "" {
		e.key, e.secret = cfg.APIKey, cfg.APISecret
	}
	return e
}

// soon has the agents asked now.
func (e *ends) soon() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *ends) run(ctx context.Context) error {
	for {
		e.ask(ctx)
		e.look(ctx)
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

func (e *ends) close() {
	e.local.CloseIdleConnections()
	e.livekit.CloseIdleConnections()
}

// ask asks every agent for the number of its jobs.
func (e *ends) ask(ctx context.Context) {
	if len(e.workers) == 0 {
		e.book.tell(0, 0, errors.New("no worker port is given"), e.key != "", time.Now())
		return
	}
	sum := 0
	for _, u := range e.workers {
		n, err := worker.Get(ctx, e.local, u)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e.book.tell(0, 0, err, e.key != "", time.Now())
			return
		}
		sum += n
	}
	e.book.tell(sum, len(e.workers), nil, e.key != "", time.Now())
}

// look asks LiveKit whether the agents of some jobs are still in their rooms. No
// answer is no news. One room's refusal says nothing of the others; where LiveKit
// does not answer at all, the rest waits for the next round, and is first then.
func (e *ends) look(ctx context.Context) {
	if e.key == "" {
		return
	}
	for _, j := range e.book.look(time.Now()) {
		there, err := e.there(ctx, j.room, j.agent)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e.book.unseen(j.id, time.Now())
			e.sight.ill(err)
			if _, ok := errors.AsType[*errRefused](err); !ok {
				return
			}
			continue
		}
		e.book.found(j.id, there, time.Now())
		if !e.book.isBlind() {
			e.sight.well()
		}
	}
}

// errRefused says that LiveKit, or something before it, answered and did not say
// who is in a room.
type errRefused struct{ answer, cure string }

func (e *errRefused) Error() string { return e.answer }

// there says whether an agent is in its room. Its errors name neither the room,
// which may be a caller's number, nor the secret.
func (e *ends) there(ctx context.Context, room, agent string) (bool, error) {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": e.key, "exp": time.Now().Add(time.Minute).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(),
		"video": map[string]any{"roomAdmin": true, "room": room},
	}).SignedString([]byte(e.secret))
	if err != nil {
		return false, fmt.Errorf("cannot sign a token: %w", err)
	}
	body, err := json.Marshal(map[string]string{"room": room})
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.livekit.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxRoom+1))
	if err != nil {
		return false, err
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		media = ""
	}
	// Without its code, and its type, an answer may be a page of something between:
	// that is neither an empty room nor none.
	var answer struct {
		Code         string `json:"code"`
		Participants []struct {
			Identity string `json:"identity"`
			State    string `json:"state"`
		} `json:"participants"`
	}
	readable := media == "application/json" && len(raw) <= maxRoom && json.Unmarshal(raw, &answer) == nil
	status := resp.StatusCode
	said := fmt.Sprintf("it answers %d %s", status, http.StatusText(status))
	switch {
	case status == http.StatusNotFound && readable && answer.Code == "not_found":
		return false, nil // nor is anybody else: the room has closed
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return false, &errRefused{said, "check the gate's LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and that the clocks agree; or set neither, and it goes by the agent's number of jobs"}
	case len(raw) > maxRoom:
		return false, &errRefused{fmt.Sprintf("the participants of a room take more than %d MiB", maxRoom>>20), "keep less in their metadata and attributes"}
	case status != http.StatusOK && readable && answer.Code != "" && answer.Code != "bad_route":
		return false, &errRefused{said, "LiveKit's log says why"}
	case status != http.StatusOK || !readable:
		return false, &errRefused{said + ", and not as LiveKit does", "check the gate's LIVEKIT_URL"}
	}
	for _, p := range answer.Participants {
		if p.Identity == agent && p.State != "DISCONNECTED" {
			return true, nil
		}
	}
	return false, nil
}

// sight tells in the log when rooms can no longer be looked at, once for each
// cause, and when they all can again.
type sight struct {
	log      *slog.Logger
	upstream string
	told     map[string]bool
}

func (s *sight) ill(err error) {
	cause, cure := "unreachable", "check that it runs, and the gate's LIVEKIT_URL"
	if refused, ok := errors.AsType[*errRefused](err); ok {
		cause, cure = refused.answer, refused.cure
	}
	if s.told[cause] {
		return
	}
	s.told[cause] = true
	s.log.Warn(fmt.Sprintf("The gate cannot look into the rooms of its jobs at LiveKit; those that ended unseen count for %s or more; %s", blindFor, cure),
		"url", s.upstream, "err", err)
}

func (s *sight) well() {
	if len(s.told) > 0 {
		clear(s.told)
		s.log.Info("The gate can look into the rooms of its jobs again", "url", s.upstream)
	}
}
