// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
// answer is no news.
func (e *ends) look(ctx context.Context) {
	if e.key == "" {
		return
	}
	for _, j := range e.book.look(time.Now()) {
		there, err := e.there(ctx, j.room, j.agent)
		if err != nil {
			return // the others would fare no better
		}
		e.book.found(j.id, there, time.Now())
	}
}

// there says whether an agent is in its room.
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
	// A page of something between is not an empty room.
	if resp.StatusCode != http.StatusOK || media != "application/json" || len(raw) > maxRoom {
		return false, fmt.Errorf("%s answered %s", e.url, resp.Status)
	}
	var answer struct {
		Participants []struct {
			Identity string `json:"identity"`
			State    string `json:"state"`
		} `json:"participants"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return false, err
	}
	for _, p := range answer.Participants {
		if p.Identity == agent && p.State != "DISCONNECTED" {
			return true, nil
		}
	}
	return false, nil
}
