// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"encoding/hex"
	"hash/fnv"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/auth"
	protocol "github.com/livekit/protocol/livekit"
	"github.com/twitchtv/twirp"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// nobodyAnswers is how long LiveKit takes to report that a room's node does not answer:
	// psrpc's DefaultClientTimeout, measured as 3.00 s with livekit-server 1.13.5 and
	// enable_psrpc_for_get_list_participants.
	nobodyAnswers = 3 * time.Second
	// lineLife is how old the numbers in the list of rooms may be: roomUpdateInterval
	// in LiveKit's pkg/rtc/room.go.
	lineLife = 5 * time.Second
	// retryAfter is LiveKit Cloud's Retry-After above its limit of requests, in seconds.
	retryAfter = "20"
)

// fakeLiveKit speaks the RoomService in its real wire format. Only these unit tests use
// it; test/e2e uses a real livekit-server.
type fakeLiveKit struct {
	protocol.RoomService
	protocol.AgentDispatchService

	mu       sync.Mutex
	secret   string
	rooms    map[string][]*protocol.ParticipantInfo
	metadata string                               // of each room
	lines    map[string]*line                     // as they were when they were last refreshed
	unlisted map[string]bool                      // rooms that ListRooms leaves out
	noList   bool                                 // ListRooms fails
	byNodes  bool                                 // a room's node is asked for its participants; for a closed room, none answers
	silent   map[string]bool                      // rooms whose node does not answer
	broken   map[string]bool                      // rooms with garbage for an answer
	break_   func(w http.ResponseWriter) bool     // breaks an answer, and returns true if it did
	asksFor  map[string][]*protocol.AgentDispatch // of rooms
	limit    int                                  // of requests a minute; 0 is none
	sent     []time.Time                          // in the last minute, including refused ones
	most     int                                  // of sent, ever
	refused  int
	requests atomic.Int64 // of all kinds
	lists    atomic.Int64 // of these, lists of all rooms
}

type line struct {
	*protocol.Room

	at time.Time
}

func newFakeLiveKit() *fakeLiveKit {
	return &fakeLiveKit{
		secret: "secret", rooms: map[string][]*protocol.ParticipantInfo{}, lines: map[string]*line{},
		asksFor:  map[string][]*protocol.AgentDispatch{},
		unlisted: map[string]bool{}, silent: map[string]bool{}, broken: map[string]bool{},
	}
}

func (f *fakeLiveKit) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeLiveKit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	f.mu.Lock()
	breaks, secret := f.break_, f.secret
	if f.tooMany() {
		f.refused++
		f.mu.Unlock()
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	f.mu.Unlock()
	if breaks != nil && breaks(w) {
		return
	}
	token, err := auth.ParseAPIToken(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if err == nil {
		_, _, err = token.Verify(secret)
	}
	if err != nil {
		if err := twirp.WriteError(w, twirp.Unauthenticated.Error("permissions denied")); err != nil {
			panic(err)
		}
		return
	}
	if strings.Contains(r.URL.Path, "AgentDispatchService") {
		protocol.NewAgentDispatchServiceServer(f).ServeHTTP(w, r)
		return
	}
	protocol.NewRoomServiceServer(f).ServeHTTP(w, r)
}

func (f *fakeLiveKit) ListDispatch(_ context.Context, req *protocol.ListAgentDispatchRequest) (*protocol.ListAgentDispatchResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken["dispatches"] {
		return nil, twirp.Internal.Error("cannot list the dispatches of room " + req.Room)
	}
	return &protocol.ListAgentDispatchResponse{AgentDispatches: f.asksFor[req.Room]}, nil
}

func (f *fakeLiveKit) CreateDispatch(_ context.Context, req *protocol.CreateAgentDispatchRequest) (*protocol.AgentDispatch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asksFor[req.Room] = append(f.asksFor[req.Room], asksFor(req.AgentName, false)...)
	return &protocol.AgentDispatch{AgentName: req.AgentName}, nil
}

// asksFor is a dispatch of a room.
func asksFor(agent string, taken bool) []*protocol.AgentDispatch {
	d := &protocol.AgentDispatch{Id: "AD_1", AgentName: agent, State: &protocol.AgentDispatchState{}}
	if taken {
		d.State.Jobs = []*protocol.Job{{State: &protocol.JobState{Status: protocol.JobStatus_JS_RUNNING}}}
	}
	return []*protocol.AgentDispatch{d}
}

func callerOf(sid string) []*protocol.ParticipantInfo {
	return []*protocol.ParticipantInfo{{Sid: sid, Identity: "caller-" + sid, Kind: protocol.ParticipantInfo_SIP, IsPublisher: true}}
}

// counted returns the most requests of a minute, and how many were refused.
func (f *fakeLiveKit) counted() (most, refused int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most, f.refused
}

func (f *fakeLiveKit) tooMany() bool {
	now := time.Now()
	for len(f.sent) > 0 && now.Sub(f.sent[0]) >= time.Minute {
		f.sent = f.sent[1:]
	}
	f.sent = append(f.sent, now)
	f.most = max(f.most, len(f.sent))
	return f.limit > 0 && len(f.sent) > f.limit
}

func (f *fakeLiveKit) ListRooms(_ context.Context, req *protocol.ListRoomsRequest) (*protocol.ListRoomsResponse, error) {
	if len(req.Names) == 0 {
		f.lists.Add(1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noList {
		return nil, twirp.Unavailable.Error("no")
	}
	answer := &protocol.ListRoomsResponse{}
	for name := range f.rooms {
		if !f.unlisted[name] && (len(req.Names) == 0 || slices.Contains(req.Names, name)) {
			answer.Rooms = append(answer.Rooms, f.line(name))
		}
	}
	return answer, nil
}

// line is a room's entry in the list. Agents count as publishers when they publish, and
// not as participants.
func (f *fakeLiveKit) line(name string) *protocol.Room {
	if l := f.lines[name]; l != nil && time.Since(l.at) < lineLife {
		return l.Room
	}
	room := &protocol.Room{Sid: "RM_" + sidOf(name), Name: name, Metadata: f.metadata, TurnPassword: "hush"}
	for _, p := range f.rooms[name] {
		if p.GetIsPublisher() {
			room.NumPublishers++
		}
		if p.GetKind() != protocol.ParticipantInfo_AGENT {
			room.NumParticipants++
		}
	}
	f.lines[name] = &line{room, time.Now()}
	return room
}

// sidOf returns a room id that does not contain its name.
func sidOf(name string) string {
	sum := fnv.New64()
	_, _ = sum.Write([]byte(name)) // it never fails
	return hex.EncodeToString(sum.Sum(nil))
}

func (f *fakeLiveKit) ListParticipants(_ context.Context, req *protocol.ListParticipantsRequest) (*protocol.ListParticipantsResponse, error) {
	f.mu.Lock()
	in, open := f.rooms[req.Room]
	silent, broken := f.silent[req.Room] || f.byNodes && !open, f.broken[req.Room]
	f.mu.Unlock()
	if silent {
		time.Sleep(nobodyAnswers)
		return nil, twirp.Unavailable.Error("no response from servers")
	}
	if broken {
		return nil, twirp.Internal.Error("cannot load the participants of room " + req.Room)
	}
	return &protocol.ListParticipantsResponse{Participants: in}, nil
}

func agentOf(sid, pod string) []*protocol.ParticipantInfo {
	return []*protocol.ParticipantInfo{{Sid: sid, Identity: "agent-" + sid, Kind: protocol.ParticipantInfo_AGENT, IsPublisher: true, Attributes: map[string]string{call.PodAttribute: pod}}}
}

// direct passes requests to a handler without a network. A cancelled request gets no
// answer, as over a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := make(chan *http.Response, 1)
	go func() {
		rec := httptest.NewRecorder()
		d.ServeHTTP(rec, req)
		answer <- rec.Result()
	}()
	select {
	case <-req.Context().Done():
		return nil, req.Context().Err()
	case resp := <-answer:
		return resp, nil
	}
}
