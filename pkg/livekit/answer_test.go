// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	protocol "github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// metadataLimit is LiveKit's default limit.max_metadata_size.
	metadataLimit = 512 << 10
	// longName is the length of a room's name that a LiveKit with
	// limit.max_room_name_length: 4000 accepted.
	longName = 1_100
)

// answering returns a client of a server that always gives this answer.
func answering(t *testing.T, shared *Budget, answer http.HandlerFunc) *Client {
	t.Helper()
	ts := httptest.NewServer(answer)
	t.Cleanup(ts.Close)
	return clientOf(t, nil, func(c *Config) {
		c.URL, c.Transport, c.Budget, c.Timeout, c.MaxItems = ts.URL, http.DefaultTransport, shared, 30*time.Second, maxItems
	})
}

// maxItems is how many items a namespace's project may have.
const maxItems = 25_000

// manyRooms returns rooms with metadata, as LiveKit lists them.
func manyRooms(n int) *protocol.ListRoomsResponse {
	list := &protocol.ListRoomsResponse{}
	for i := range n {
		room := &protocol.Room{
			Sid: fmt.Sprintf("RM_%012d", i), Name: fmt.Sprintf("call-+4930%07d", i), EmptyTimeout: 300, DepartureTimeout: 20,
			CreationTime: 1767268800, CreationTimeMs: 1767268800000, TurnPassword: strings.Repeat("p", 44),
			Metadata: strings.Repeat("m", 800), NumParticipants: uint32(i % 5), NumPublishers: uint32(i % 3),
		}
		for _, mime := range []string{"audio/opus", "audio/red", "video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265", "video/rtx"} {
			room.EnabledCodecs = append(room.EnabledCodecs, &protocol.Codec{Mime: mime})
		}
		list.Rooms = append(list.Rooms, room)
	}
	return list
}

// manyParticipants returns half agents, half callers.
func manyParticipants(n int) *protocol.ListParticipantsResponse {
	list := &protocol.ListParticipantsResponse{}
	for i := range n {
		p := &protocol.ParticipantInfo{
			Sid: fmt.Sprintf("PA_%012d", i), Identity: fmt.Sprintf("identity-%d", i), Name: "a caller", State: protocol.ParticipantInfo_ACTIVE,
			Metadata: strings.Repeat("m", 100), JoinedAt: 1767268800 + int64(i), Region: "eu", IsPublisher: i%3 > 0,
			Attributes: map[string]string{"sip.phoneNumber": "+4930123456", "lk.agent.state": "listening"},
			Tracks:     []*protocol.TrackInfo{{Sid: "TR_1", Type: protocol.TrackType_AUDIO, Name: "microphone", MimeType: "audio/opus"}},
		}
		switch i % 4 {
		case 0:
			p.Kind, p.Attributes[call.PodAttribute] = protocol.ParticipantInfo_AGENT, fmt.Sprint("pod-", i)
		case 1:
			p.Kind, p.Attributes[publishOnBehalf] = protocol.ParticipantInfo_AGENT, "identity-0"
		case 2:
			p.Kind, p.KindDetails = protocol.ParticipantInfo_AGENT, []protocol.ParticipantInfo_KindDetail{protocol.ParticipantInfo_FORWARDED, protocol.ParticipantInfo_CLOUD_AGENT}
		}
		list.Participants = append(list.Participants, p)
	}
	return list
}

// whole returns the content of a list, decoded by LiveKit's own code.
func whole(list *protocol.ListParticipantsResponse) Room {
	room := Room{Open: len(list.GetParticipants()) > 0}
	for _, p := range list.GetParticipants() {
		hosted := false
		for _, detail := range p.GetKindDetails() {
			hosted = hosted || detail == protocol.ParticipantInfo_CLOUD_AGENT
		}
		if p.GetState() == protocol.ParticipantInfo_DISCONNECTED {
			continue
		}
		agent := p.GetKind() == protocol.ParticipantInfo_AGENT
		room.AnyAgent = room.AnyAgent || agent
		switch {
		case p.GetIsPublisher():
			room.Counts.Publishers++
		case agent:
			room.Counts.Quiet++
		}
		if !agent && p.GetKind() != protocol.ParticipantInfo_EGRESS {
			room.Counts.Participants++
		}
		switch {
		case p.GetKind() != protocol.ParticipantInfo_AGENT || hosted || p.GetAttributes()[publishOnBehalf] != "":
			room.Others++
		default:
			room.Agents = append(room.Agents, Agent{
				SID: p.GetSid(), Identity: p.GetIdentity(), Pod: types.UID(p.GetAttributes()[call.PodAttribute]),
				Joined: time.Unix(p.GetJoinedAt(), 0), State: State(p.GetState()),
			})
		}
	}
	return room
}

// TestReadsWhatLiveKitWrites: what is read from an answer equals the same part of the
// complete answer.
func TestReadsWhatLiveKitWrites(t *testing.T) {
	rooms := manyRooms(20_000)
	got, err := answering(t, NewBudget(), says(encoded(t, rooms))).Rooms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []RoomInfo
	for _, r := range rooms.GetRooms() {
		want = append(want, RoomInfo{Name: r.GetName(), SID: r.GetSid(), NumParticipants: int(r.GetNumParticipants()), NumPublishers: int(r.GetNumPublishers())})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rooms: -want, +got:\n%s", diff)
	}
	for _, n := range []int{0, 1, 3, 1_000} {
		list := manyParticipants(n)
		got, err := answering(t, NewBudget(), says(encoded(t, list))).Participants(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(whole(list), got); diff != "" {
			t.Errorf("%d participants: -want, +got:\n%s", n, diff)
		}
	}
}

// TestMetadataOfAnySize: skipped fields may be of any size, and take no memory.
func TestMetadataOfAnySize(t *testing.T) {
	large := strings.Repeat("m", metadataLimit)
	rooms := &protocol.ListRoomsResponse{}
	for i := range 100 {
		rooms.Rooms = append(rooms.Rooms, &protocol.Room{Sid: fmt.Sprint("RM_", i), Name: fmt.Sprint("r", i), Metadata: large})
	}
	shared := NewBudget()
	if got, err := answering(t, shared, says(encoded(t, rooms))).Rooms(t.Context()); err != nil || len(got) != 100 {
		t.Errorf("100 rooms of 512 KiB: %d, %v", len(got), err)
	}
	list := &protocol.ListParticipantsResponse{}
	for i := range 20 {
		p := agentOf(fmt.Sprint("PA_", i), "pod")
		p.Metadata, p.Name = large, large
		p.Attributes["a"], p.Attributes[strings.Repeat("k", metadataLimit)] = large, "v"
		list.Participants = append(list.Participants, p)
	}
	got, err := answering(t, shared, says(encoded(t, list))).Participants(t.Context(), "r")
	if diff := cmp.Diff(whole(list), got); err != nil || diff != "" {
		t.Errorf("20 agents of 2 MiB: %v, -want, +got:\n%s", err, diff)
	}
}

// TestNamesOfAnyLength: rooms are requested by name, however long LiveKit lets names be.
// A name that fits into no token does not keep other rooms from being read.
func TestNamesOfAnyLength(t *testing.T) {
	lk := newFake()
	var names []string
	for _, n := range []int{longName, 4_000, 16_000} {
		name := strings.Repeat("n", n)
		names = append(names, name)
		lk.rooms[name] = []*protocol.ParticipantInfo{agentOf("PA_1", "pod")}
	}
	ts := httptest.NewServer(lk)
	t.Cleanup(ts.Close)
	c := clientOf(t, nil, func(c *Config) { c.URL, c.Transport = ts.URL, http.DefaultTransport })
	rooms, err := c.Rooms(t.Context())
	if err != nil || len(rooms) != len(names) {
		t.Fatalf("%d rooms, %v", len(rooms), err)
	}
	for _, room := range rooms {
		if in, err := c.Room(t.Context(), room.Name); err != nil || len(in.Agents) != 1 {
			t.Errorf("a name of %d bytes: %v, %v", len(room.Name), in, err)
		}
	}
	two := &protocol.ListRoomsResponse{Rooms: []*protocol.Room{{Sid: "RM_1", Name: strings.Repeat("n", maxName+1)}, {Sid: "RM_2", Name: "r"}}}
	got, err := answering(t, NewBudget(), says(encoded(t, two))).Rooms(t.Context())
	if diff := cmp.Diff([]RoomInfo{{SID: "RM_1"}, {SID: "RM_2", Name: "r"}}, got); err != nil || diff != "" {
		t.Errorf("%v, -want, +got:\n%s", err, diff)
	}
}

// TestLongAttributes: a value longer than a pod's UID is no pod's, whatever it begins
// with, and its agent still counts as an agent.
func TestLongAttributes(t *testing.T) {
	uid := strings.Repeat("u", 36)
	list := &protocol.ListParticipantsResponse{Participants: []*protocol.ParticipantInfo{
		agentOf("PA_1", uid+strings.Repeat("x", metadataLimit)), agentOf("PA_2", uid),
	}}
	got, err := answering(t, NewBudget(), says(encoded(t, list))).Participants(t.Context(), "r")
	if err != nil || len(got.Agents) != 2 || got.Agents[0].Pod == types.UID(uid) || got.Agents[0].Pod == "" || got.Agents[1].Pod != types.UID(uid) {
		t.Errorf("%d agents, %v", len(got.Agents), err)
	}
	// A server may write a value before its key.
	entry := protowire.AppendString(protowire.AppendTag(nil, entryValue, protowire.BytesType), uid)
	entry = protowire.AppendString(protowire.AppendTag(entry, entryKey, protowire.BytesType), call.PodAttribute)
	p := protowire.AppendVarint(protowire.AppendTag(nil, partKind, protowire.VarintType), kindAgent)
	p = protowire.AppendBytes(protowire.AppendTag(p, partAttributes, protowire.BytesType), entry)
	got, err = answering(t, NewBudget(), says(protowire.AppendBytes(protowire.AppendTag(nil, itemsField, protowire.BytesType), p))).Participants(t.Context(), "r")
	if err != nil || len(got.Agents) != 1 || got.Agents[0].Pod != types.UID(uid) {
		t.Errorf("the value first: %v, %v", got, err)
	}
}

// TestAnswersAreBounded: servers answer what no LiveKit does. An answer that is not read
// completely is an error, never a shorter list.
func TestAnswersAreBounded(t *testing.T) {
	three := encoded(t, manyRooms(3))
	cases := map[string]struct {
		reason       string
		answer       []byte
		participants bool
		want         string
	}{
		"Long":             {reason: "It would be passed over forever.", answer: []byte{0x12, 0x81, 0x80, 0x80, 0x80, 0x02}, want: "longer than 512 MiB"},
		"ManyRooms":        {reason: "Two bytes on the way are more in memory.", answer: bytes.Repeat([]byte{0x0a, 0}, maxItems+1), want: "more than 25000 rooms or participants"},
		"ManyParticipants": {reason: "The same.", answer: bytes.Repeat([]byte{0x0a, 0}, maxItems+1), participants: true, want: "more than 25000 rooms or participants"},
		"Cut":              {reason: "Two of three rooms are not all.", answer: three[:len(three)-1], want: "before its answer is complete"},
		"CutAtTag":         {reason: "The same.", answer: append(bytes.Clone(three), 0x0a), want: "before its answer is complete"},
		"Group":            {reason: "LiveKit has none.", answer: []byte{0x0b}, want: "not LiveKit's"},
		"Inside":           {reason: "A room that is none.", answer: []byte{0x0a, 1, 0xff, 0x0a, 0}, want: "not LiveKit's"},
		"Overlong":         {reason: "A field longer than its room.", answer: []byte{0x0a, 3, 0x12, 4, 'r', 'o', 'o', 'm'}, want: "not LiveKit's"},
		"Details":          {reason: "Numbers longer than their field.", participants: true, answer: []byte{0x0a, 4, 0x92, 0x01, 1, 0x80, 0x0a, 0}, want: "not LiveKit's"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			shared := NewBudget()
			c := answering(t, shared, says(tc.answer))
			var err error
			if tc.participants {
				_, err = c.Participants(t.Context(), "r")
			} else {
				_, err = c.Rooms(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s got %v, want %q", tc.reason, err, tc.want)
			}
			if !shared.TryAcquire(maxUnderWay) {
				t.Error("the answer still holds a part of the budget")
			}
		})
	}
}

// TestFullBudget: while others use up the budget, large answers are refused with the
// reason, and ordinary rooms are read.
func TestFullBudget(t *testing.T) {
	shared := NewBudget()
	if !shared.TryAcquire(maxUnderWay) {
		t.Fatal("a new budget is not complete")
	}
	_, err := answering(t, shared, says(encoded(t, manyRooms(1_000)))).Rooms(t.Context())
	if err == nil || !strings.Contains(err.Error(), "of all LiveKit projects that are under way would take more than 64 MiB") {
		t.Errorf("1,000 rooms: %v", err)
	}
	got, err := answering(t, shared, says(encoded(t, manyParticipants(3)))).Participants(t.Context(), "r")
	if err != nil || len(got.Agents)+got.Others != 3 {
		t.Errorf("an ordinary room: %v, %v", got, err)
	}
}

// TestHostileProjects: twenty projects answer with the longest lists possible, with long
// names, that do not end. No more are in progress than the budget has room for, the
// memory is bounded, and all of it is freed.
func TestHostileProjects(t *testing.T) {
	const projects = 20
	list := encoded(t, &protocol.ListRoomsResponse{Rooms: manyLong(100, maxName)})
	shared := NewBudget()
	end := make(chan struct{})
	finish := sync.OnceFunc(func() { close(end) })
	t.Cleanup(finish)
	before := heap()
	ended := make(chan error, projects)
	for range projects {
		c := answering(t, shared, func(w http.ResponseWriter, r *http.Request) {
			says(list)(w, r)
			w.(http.Flusher).Flush()
			select {
			case <-end:
			case <-r.Context().Done():
			}
		})
		go func() {
			_, err := c.Rooms(context.WithoutCancel(t.Context()))
			ended <- err
		}()
	}
	fit := maxUnderWay / (byteCost * 100 * maxName)
	for range projects - fit - 1 {
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "would take more than 64 MiB") {
				t.Fatalf("an answer that does not end: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("more than %d long answers are in progress", fit)
		}
	}
	if grown := heap() - before; grown > maxUnderWay {
		t.Errorf("the answers take %d MiB, more than %d", grown>>20, maxUnderWay>>20)
	}
	finish()
	for range fit + 1 {
		<-ended //nolint:errcheck // all of them end
	}
	if rooms, err := answering(t, shared, says(list)).Rooms(t.Context()); err != nil || len(rooms) != 100 {
		t.Errorf("one such list fits: %d rooms, %v", len(rooms), err)
	}
	if !shared.TryAcquire(maxUnderWay) {
		t.Error("some of the budget is lost")
	}
}

func manyLong(n, length int) []*protocol.Room {
	list := make([]*protocol.Room, n)
	for i := range list {
		list[i] = &protocol.Room{Name: strings.Repeat("n", length)}
	}
	return list
}

// TestCharge compares an answer's charge with the memory that it takes.
func TestCharge(t *testing.T) {
	agents := &protocol.ListParticipantsResponse{}
	for i := range 10_000 {
		agents.Participants = append(agents.Participants, agentOf(fmt.Sprintf("PA_%012d", i), strings.Repeat("p", 36)))
	}
	cases := map[string]struct {
		answer       []byte
		participants bool
	}{
		"Rooms":             {answer: encoded(t, manyRooms(maxItems))},
		"EmptyRooms":        {answer: bytes.Repeat([]byte{0x0a, 0}, maxItems)},
		"LongNames":         {answer: encoded(t, &protocol.ListRoomsResponse{Rooms: manyLong(10_000, 250)})},
		"EmptyParticipants": {answer: bytes.Repeat([]byte{0x0a, 0}, maxItems), participants: true},
		"Agents":            {answer: encoded(t, agents), participants: true},
		"Participants":      {answer: encoded(t, manyParticipants(10_000)), participants: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := heap()
			a := newAnswer(bytes.NewReader(tc.answer), NewBudget(), 0)
			var into any
			var err error
			if tc.participants {
				into, err = a.participants()
			} else {
				into, err = a.rooms()
			}
			if err != nil {
				t.Fatal(err)
			}
			takes := heap() - before
			if takes > a.held+freeCost {
				t.Errorf("it takes %d KiB and is charged %d", takes>>10, a.held>>10)
			}
			t.Logf("%d bytes came; they take %d KiB and are charged %d", len(tc.answer), takes>>10, a.held>>10)
			runtime.KeepAlive(into)
		})
	}
}

// heap returns the size of live objects.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestWhoHoldsACall(t *testing.T) {
	attributed := map[string]string{call.PodAttribute: "uid"}
	person := func(kind protocol.ParticipantInfo_Kind, attributes map[string]string) *protocol.ParticipantInfo {
		return &protocol.ParticipantInfo{Sid: "PA", Kind: kind, Attributes: attributes}
	}
	cases := map[string]struct {
		participant *protocol.ParticipantInfo
		want        int
	}{
		"Agent":        {person(protocol.ParticipantInfo_AGENT, attributed), 1},
		"Unattributed": {person(protocol.ParticipantInfo_AGENT, nil), 1},
		"Avatar":       {person(protocol.ParticipantInfo_AGENT, map[string]string{publishOnBehalf: "agent-1"}), 0},
		"AvatarOfOurs": {person(protocol.ParticipantInfo_AGENT, map[string]string{publishOnBehalf: "agent-1", call.PodAttribute: "uid"}), 0},
		"CloudAgent": {&protocol.ParticipantInfo{Kind: protocol.ParticipantInfo_AGENT,
			KindDetails: []protocol.ParticipantInfo_KindDetail{protocol.ParticipantInfo_CLOUD_AGENT}}, 0},
		"Disconnected": {&protocol.ParticipantInfo{Kind: protocol.ParticipantInfo_AGENT, State: protocol.ParticipantInfo_DISCONNECTED, Attributes: attributed}, 0},
		"Caller":       {person(protocol.ParticipantInfo_STANDARD, attributed), 0},
		"SIP":          {person(protocol.ParticipantInfo_SIP, attributed), 0},
		"Egress":       {person(protocol.ParticipantInfo_EGRESS, attributed), 0},
		"Ingress":      {person(protocol.ParticipantInfo_INGRESS, attributed), 0},
		"Bridge":       {person(protocol.ParticipantInfo_BRIDGE, attributed), 0},
	}
	for name, tc := range cases {
		list := encoded(t, &protocol.ListParticipantsResponse{Participants: []*protocol.ParticipantInfo{tc.participant}})
		if got, err := clientOf(t, says(list), nil).Participants(t.Context(), "r"); err != nil || len(got.Agents) != tc.want {
			t.Errorf("%s: %d agents, %v; want %d", name, len(got.Agents), err, tc.want)
		}
	}
}

// FuzzAnswer: whatever a server answers, what is kept of it is bounded, and all charges
// are returned to the budget.
func FuzzAnswer(f *testing.F) {
	room := protowire.AppendString(protowire.AppendTag(nil, roomName, protowire.BytesType), "r")
	f.Add(protowire.AppendBytes(protowire.AppendTag(nil, itemsField, protowire.BytesType), room))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x0a, 0x04, 0x7a, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, body []byte) {
		budget := NewBudget()
		rooms := newAnswer(bytes.NewReader(body), budget, maxItems)
		list, _ := rooms.rooms()
		rooms.close()
		participants := newAnswer(bytes.NewReader(body), budget, maxItems)
		in, _ := participants.participants()
		participants.close()
		asked := newAnswer(bytes.NewReader(body), budget, maxItems)
		dispatches, _ := asked.dispatches()
		asked.close()
		for _, d := range dispatches {
			if len(d.AgentName) > call.MaxAgentName+len("…") || len(d.order) > 2*maxOrder {
				t.Errorf("%q is a dispatch of %d and %d bytes", body, len(d.AgentName), len(d.order))
			}
		}
		for _, info := range list {
			if len(info.Name) > maxName || len(info.SID) > maxField {
				t.Errorf("%q is a room of %d bytes with an id of %d", body, len(info.Name), len(info.SID))
			}
		}
		for _, a := range in.Agents {
			if len(a.SID) > maxField || len(a.Pod) > maxField || len(a.Identity) > maxName {
				t.Errorf("%q is an agent of %d, %d and %d bytes", body, len(a.SID), len(a.Pod), len(a.Identity))
			}
		}
		if len(list)+len(in.Agents)+in.Others > 2*len(body) {
			t.Errorf("%q has %d rooms, %d agents and %d others", body, len(list), len(in.Agents), in.Others)
		}
		if !budget.TryAcquire(maxUnderWay) {
			t.Errorf("%q: not all of the budget is given back", body)
		}
	})
}
