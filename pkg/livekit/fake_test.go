// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	protocol "github.com/livekit/protocol/livekit"
	"github.com/twitchtv/twirp"
	"google.golang.org/protobuf/proto"

	"github.com/callguard/callguard/pkg/call"
)

// nobodyAnswers is how long a server takes to report that a room's node does not answer:
// psrpc v0.7's DefaultClientTimeout, measured as 3.00 s with livekit-server 1.13.5 and
// enable_psrpc_for_get_list_participants.
const nobodyAnswers = 3 * time.Second

// fake speaks the RoomService in its real wire format, with LiveKit's own server stub.
// test/e2e uses a real livekit-server.
type fake struct {
	protocol.RoomService
	protocol.AgentDispatchService

	mu      sync.Mutex
	rooms   map[string][]*protocol.ParticipantInfo
	byNodes bool            // a room's node is asked who is in it
	silent  map[string]bool // rooms whose node does not answer
	asked   []string        // methods
	// dispatches are those of rooms, and created are the requested ones.
	dispatches map[string][]*protocol.AgentDispatch
	created    []*protocol.CreateAgentDispatchRequest
	// instead may answer first; it returns true if it has.
	instead func(http.ResponseWriter, *http.Request) bool
}

func newFake() *fake {
	return &fake{rooms: map[string][]*protocol.ParticipantInfo{}, silent: map[string]bool{}}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
	instead := f.instead
	f.mu.Unlock()
	if instead != nil && instead(w, r) {
		return
	}
	token, err := auth.ParseAPIToken(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if err == nil {
		var grants *auth.ClaimGrants
		if _, grants, err = token.Verify("secret"); err == nil {
			r = r.WithContext(context.WithValue(r.Context(), grantsKey{}, grants.Video))
		}
	}
	if err != nil {
		_ = twirp.WriteError(w, twirp.Unauthenticated.Error("permissions denied"))
		return
	}
	if strings.Contains(r.URL.Path, "AgentDispatchService") {
		protocol.NewAgentDispatchServiceServer(f).ServeHTTP(w, r)
		return
	}
	protocol.NewRoomServiceServer(f).ServeHTTP(w, r)
}

type grantsKey struct{}

func (f *fake) ListRooms(ctx context.Context, req *protocol.ListRoomsRequest) (*protocol.ListRoomsResponse, error) {
	if v := ctx.Value(grantsKey{}).(*auth.VideoGrant); !v.RoomList {
		return nil, twirp.PermissionDenied.Error("no roomList")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &protocol.ListRoomsResponse{}
	for name := range f.rooms {
		if len(req.Names) == 0 || slices.Contains(req.Names, name) {
			answer.Rooms = append(answer.Rooms, &protocol.Room{Sid: "RM_" + name, Name: name, NumParticipants: 1, NumPublishers: 2})
		}
	}
	return answer, nil
}

func (f *fake) ListParticipants(ctx context.Context, req *protocol.ListParticipantsRequest) (*protocol.ListParticipantsResponse, error) {
	if v := ctx.Value(grantsKey{}).(*auth.VideoGrant); !v.RoomAdmin || v.Room != req.Room {
		return nil, twirp.PermissionDenied.Error("no roomAdmin of room " + req.Room)
	}
	f.mu.Lock()
	in, open := f.rooms[req.Room]
	silent := f.silent[req.Room] || f.byNodes && !open
	f.mu.Unlock()
	if silent {
		time.Sleep(nobodyAnswers)
		return nil, twirp.Unavailable.Error("no response from servers")
	}
	return &protocol.ListParticipantsResponse{Participants: in}, nil
}

func (f *fake) ListDispatch(ctx context.Context, req *protocol.ListAgentDispatchRequest) (*protocol.ListAgentDispatchResponse, error) {
	if v := ctx.Value(grantsKey{}).(*auth.VideoGrant); !v.RoomAdmin || v.Room != req.Room {
		return nil, twirp.PermissionDenied.Error("no roomAdmin of room " + req.Room)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rooms[req.Room] == nil {
		return nil, twirp.NotFound.Error("requested room does not exist")
	}
	return &protocol.ListAgentDispatchResponse{AgentDispatches: f.dispatches[req.Room]}, nil
}

func (f *fake) CreateDispatch(ctx context.Context, req *protocol.CreateAgentDispatchRequest) (*protocol.AgentDispatch, error) {
	if v := ctx.Value(grantsKey{}).(*auth.VideoGrant); !v.RoomAdmin || v.Room != req.Room {
		return nil, twirp.PermissionDenied.Error("no roomAdmin of room " + req.Room)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, req)
	return &protocol.AgentDispatch{Id: "AD_new", AgentName: req.AgentName, Room: req.Room, Metadata: req.Metadata}, nil
}

// direct passes requests to a handler without a network, so that they take synctest's
// time. A cancelled request gets no answer, as over a network.
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

func clientOf(t *testing.T, h http.Handler, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{Credentials: Credentials{"http://livekit.example:7880", "key", "secret"}, Transport: direct{h}}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// says answers with bytes that look like LiveKit's.
func says(raw []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/protobuf")
		_, _ = w.Write(raw) // the client may have hung up
	}
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func agentOf(sid, pod string) *protocol.ParticipantInfo {
	return &protocol.ParticipantInfo{
		Sid: sid, Identity: "agent-" + sid, Kind: protocol.ParticipantInfo_AGENT, State: protocol.ParticipantInfo_ACTIVE,
		JoinedAt: 1767268800, Attributes: map[string]string{call.PodAttribute: pod},
	}
}
