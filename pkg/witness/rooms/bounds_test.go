// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/callguard/callguard/pkg/call"
)

// answering is a client of a server that gives every question this answer.
func answering(t *testing.T, shared *budget, answer http.HandlerFunc) *client {
	t.Helper()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/protobuf")
		answer(w, r)
	}))
	t.Cleanup(ts.Close)
	return newClient(Credentials{ts.URL, "key", "secret"}, http.DefaultTransport, shared, 30*time.Second)
}

func says(answer []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) } // the reader may have had enough
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// unknownField is a list with a field of so many bytes that no list has.
func unknownField(size int) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), make([]byte, size))
}

// manyRooms are as LiveKit lists them, with metadata.
func manyRooms(n int) *livekit.ListRoomsResponse {
	list := &livekit.ListRoomsResponse{}
	for i := range n {
		room := &livekit.Room{
			Sid: fmt.Sprintf("RM_%012d", i), Name: fmt.Sprintf("call-+4930%07d", i), EmptyTimeout: 300, DepartureTimeout: 20,
			CreationTime: 1767268800, CreationTimeMs: 1767268800000, TurnPassword: strings.Repeat("p", 44),
			Metadata: strings.Repeat("m", 800), NumParticipants: 2,
		}
		for _, mime := range []string{"audio/opus", "audio/red", "video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265", "video/rtx"} {
			room.EnabledCodecs = append(room.EnabledCodecs, &livekit.Codec{Mime: mime})
		}
		list.Rooms = append(list.Rooms, room)
	}
	return list
}

// manyParticipants are half agents, half callers.
func manyParticipants(n int) *livekit.ListParticipantsResponse {
	list := &livekit.ListParticipantsResponse{}
	for i := range n {
		p := &livekit.ParticipantInfo{
			Sid: fmt.Sprintf("PA_%012d", i), Identity: fmt.Sprintf("identity-%d", i), Name: "a caller", State: livekit.ParticipantInfo_ACTIVE,
			Metadata: strings.Repeat("m", 100), JoinedAt: 1767268800 + int64(i), Region: "eu", IsPublisher: true,
			Attributes: map[string]string{"sip.phoneNumber": "+4930123456", "lk.agent.state": "listening"},
			Tracks:     []*livekit.TrackInfo{{Sid: "TR_1", Type: livekit.TrackType_AUDIO, Name: "microphone", MimeType: "audio/opus"}},
		}
		switch i % 4 {
		case 0:
			p.Kind, p.Attributes[call.PodAttribute] = livekit.ParticipantInfo_AGENT, fmt.Sprint("pod-", i)
		case 1:
			p.Kind, p.Attributes[publishOnBehalf] = livekit.ParticipantInfo_AGENT, "identity-0"
		case 2:
			p.Kind, p.KindDetails = livekit.ParticipantInfo_AGENT, []livekit.ParticipantInfo_KindDetail{livekit.ParticipantInfo_CLOUD_AGENT}
		}
		list.Participants = append(list.Participants, p)
	}
	return list
}

// TestRealSizesFit: what is taken of an answer says the same as all of it.
func TestRealSizesFit(t *testing.T) {
	rooms := manyRooms(20_000)
	names, err := answering(t, newBudget(), says(encoded(t, rooms))).listRooms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, r := range rooms.GetRooms() {
		want = append(want, r.GetName())
	}
	if !slices.Equal(want, names) {
		t.Errorf("%d rooms are not the %d that were listed", len(names), len(want))
	}
	for _, n := range []int{0, 1, 3, 1_000} {
		list := manyParticipants(n)
		got, err := answering(t, newBudget(), says(encoded(t, list))).listParticipants(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(agentsOf(list.GetParticipants()), agentsOf(got), cmp.AllowUnexported(agent{})); diff != "" || len(got) != n {
			t.Errorf("%d participants, -want, +got:\n%s", len(got), diff)
		}
	}
	full := &livekit.ParticipantInfo{ // as much as LiveKit allows
		Sid: "PA_1", Kind: livekit.ParticipantInfo_AGENT, Metadata: strings.Repeat("m", 64_000),
		Attributes: map[string]string{"a": strings.Repeat("x", 63_000), call.PodAttribute: "pod"},
	}
	got, err := answering(t, newBudget(), says(encoded(t, &livekit.ListParticipantsResponse{Participants: []*livekit.ParticipantInfo{full}}))).listParticipants(t.Context(), "r")
	if err != nil || len(got) != 1 || got[0].GetAttributes()[call.PodAttribute] != "pod" {
		t.Errorf("a participant with all it may have: %v, %v", got, err)
	}
}

// TestAnswersAreBounded has servers answer what no LiveKit does. An answer that is
// not taken whole is an error, never a shorter list.
func TestAnswersAreBounded(t *testing.T) {
	room := func(r *livekit.Room) []byte { return encoded(t, &livekit.ListRoomsResponse{Rooms: []*livekit.Room{r}}) }
	three := encoded(t, manyRooms(3))
	cases := map[string]struct {
		reason       string
		answer       []byte
		participants bool
		want         string
	}{
		"LongRooms":        {reason: "More bytes than all rooms take.", answer: unknownField(maxRoomsBytes), want: "longer than 32 MiB"},
		"LongRoom":         {reason: "More bytes than a room takes.", answer: unknownField(maxRoomBytes), participants: true, want: "longer than 4 MiB"},
		"ManyRooms":        {reason: "Two bytes on the way are a whole Room in memory.", answer: bytes.Repeat([]byte{0x0a, 0}, maxItems+1), want: "more than 25000 rooms or participants"},
		"ManyParticipants": {reason: "The same.", answer: bytes.Repeat([]byte{0x0a, 0}, maxItems+1), participants: true, want: "more than 25000 rooms or participants"},
		"LargeRoom":        {reason: "It is not read first.", answer: []byte{0x0a, 0x80, 0x80, 0x80, 0x80, 0x08}, want: "more than 256 KiB"},
		"LongName":         {reason: "It would be remembered.", answer: room(&livekit.Room{Name: strings.Repeat("n", maxField)}), want: "longer than 1024 bytes"},
		"LongPod": {reason: "The same.", participants: true, want: "longer than 1024 bytes", answer: encoded(t, &livekit.ListParticipantsResponse{
			Participants: []*livekit.ParticipantInfo{{Attributes: map[string]string{call.PodAttribute: strings.Repeat("p", maxField)}}}})},
		"Cut":      {reason: "Two of three rooms are not all.", answer: three[:len(three)-1], want: "unexpected EOF"},
		"CutAtTag": {reason: "The same.", answer: append(bytes.Clone(three), 0x0a), want: "unexpected EOF"},
		"Group":    {reason: "LiveKit has none.", answer: []byte{0x0b}, want: "not LiveKit's"},
		"Inside":   {reason: "A room that is none.", answer: []byte{0x0a, 1, 0xff}, want: "not LiveKit's"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			shared := newBudget()
			c := answering(t, shared, says(tc.answer))
			var err error
			if tc.participants {
				_, err = c.listParticipants(t.Context(), "r")
			} else {
				_, err = c.listRooms(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s got %v, want %q", tc.reason, err, tc.want)
			}
			if !shared.TryAcquire(maxUnderWay) {
				t.Error("it still holds of the budget")
			}
		})
	}
}

// TestFullBudget: while others take all, large answers are refused with the reason,
// and ordinary rooms are read.
func TestFullBudget(t *testing.T) {
	shared := newBudget()
	if !shared.TryAcquire(maxUnderWay) {
		t.Fatal("a new budget is not whole")
	}
	_, err := answering(t, shared, says(encoded(t, manyRooms(1_000)))).listRooms(t.Context())
	if err == nil || !strings.Contains(err.Error(), "of all LiveKit projects that are under way would take more than 64 MiB") {
		t.Errorf("1,000 rooms: %v", err)
	}
	got, err := answering(t, shared, says(encoded(t, manyParticipants(3)))).listParticipants(t.Context(), "r")
	if err != nil || len(got) != 3 {
		t.Errorf("an ordinary room: %v, %v", got, err)
	}
}

// TestHostileProjects has twenty projects answer with a long list each that does
// not end. No more are under way than the budget has room for, the memory is
// bounded, and all of it comes back.
func TestHostileProjects(t *testing.T) {
	const projects, rooms = 20, 10_000
	const fit = maxUnderWay / (rooms * itemCost)
	list := bytes.Repeat([]byte{0x0a, 2, 0x12, 0}, rooms) // the smallest rooms there are
	shared := newBudget()
	end := make(chan struct{})
	finish := sync.OnceFunc(func() { close(end) })
	t.Cleanup(finish)
	before := heap()
	ended := make(chan error, projects)
	for range projects {
		c := answering(t, shared, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(list) // the reader may have had enough
			w.(http.Flusher).Flush()
			select {
			case <-end:
			case <-r.Context().Done():
			}
		})
		go func() {
			_, err := c.listRooms(context.WithoutCancel(t.Context()))
			ended <- err
		}()
	}
	for range projects - fit {
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "would take more than 64 MiB") {
				t.Fatalf("an answer that does not end: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("more than %d long answers are under way", fit)
		}
	}
	if grown := heap() - before; grown > maxUnderWay {
		t.Errorf("the answers take %d MiB, more than %d", grown>>20, maxUnderWay>>20)
	}
	finish()
	for range fit {
		err := <-ended // they are let end, so they may be taken
		t.Logf("one that was under way: %v", err)
	}
	if names, err := answering(t, shared, says(list)).listRooms(t.Context()); err != nil || len(names) != rooms {
		t.Errorf("one such list fits: %d rooms, %v", len(names), err)
	}
	if !shared.TryAcquire(maxUnderWay) {
		t.Error("some of the budget is lost")
	}
}

// TestCharge compares what an answer is charged with what it takes.
func TestCharge(t *testing.T) {
	attributes := map[string]string{call.PodAttribute: strings.Repeat("p", 36), publishOnBehalf: strings.Repeat("b", 200)}
	agents, long := &livekit.ListParticipantsResponse{}, &livekit.ListRoomsResponse{}
	for i := range 10_000 {
		agents.Participants = append(agents.Participants, &livekit.ParticipantInfo{Sid: fmt.Sprintf("PA_%012d", i), Kind: livekit.ParticipantInfo_AGENT, Attributes: attributes})
		long.Rooms = append(long.Rooms, &livekit.Room{Name: strings.Repeat("n", 250)})
	}
	cases := map[string]struct {
		answer []byte
		into   proto.Message
		read   fields
	}{
		"Rooms":             {encoded(t, manyRooms(maxItems)), &livekit.ListRoomsResponse{}, fields{2}},
		"EmptyRooms":        {bytes.Repeat([]byte{0x0a, 0}, maxItems), &livekit.ListRoomsResponse{}, fields{2}},
		"LongNames":         {encoded(t, long), &livekit.ListRoomsResponse{}, fields{2}},
		"EmptyParticipants": {bytes.Repeat([]byte{0x0a, 0}, maxItems), &livekit.ListParticipantsResponse{}, fields{1}},
		"Agents":            {encoded(t, agents), &livekit.ListParticipantsResponse{}, fields{1, 14, attributesField}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := heap()
			a := &taking{budget: newBudget()}
			if err := a.take(bytes.NewReader(tc.answer), maxRoomsBytes, tc.read); err != nil {
				t.Fatal(err)
			}
			copied := bytes.Clone(a.kept)
			if err := proto.Unmarshal(copied, tc.into); err != nil {
				t.Fatal(err)
			}
			takes := heap() - before
			if takes > a.held+freeCost {
				t.Errorf("it takes %d KiB and is charged %d", takes>>10, a.held>>10)
			}
			t.Logf("%d bytes came, %d were kept; it takes %d KiB and is charged %d", len(tc.answer), len(a.kept), takes>>10, a.held>>10)
			runtime.KeepAlive(copied)
			runtime.KeepAlive(tc.into)
		})
	}
}

// heap is what lives.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
