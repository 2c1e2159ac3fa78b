// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/callguard/callguard/pkg/call"
)

const testURL = "wss://livekit.example.com"

func binary(t testing.TB, m proto.Message) frame {
	t.Helper()
	f, err := write(websocket.BinaryMessage, m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func text(body string) frame { return frame{kind: websocket.TextMessage, body: []byte(body)} }

func yes(job string) *livekit.WorkerMessage {
	return &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{
		JobId: job, Available: true, ParticipantIdentity: "agent-" + job, ParticipantAttributes: map[string]string{"lk.agent.name": ""},
	}}}
}

func offerOf(job, room string) *livekit.ServerMessage {
	return &livekit.ServerMessage{Message: &livekit.ServerMessage_Availability{Availability: &livekit.AvailabilityRequest{
		Job: &livekit.Job{Id: job, Type: livekit.JobType_JT_ROOM, Room: &livekit.Room{Name: room}},
	}}}
}

func assignmentOf(job, room string) *livekit.ServerMessage {
	return &livekit.ServerMessage{Message: &livekit.ServerMessage_Assignment{Assignment: &livekit.JobAssignment{
		Token: "token", Job: &livekit.Job{Id: job, Room: &livekit.Room{Name: room}, State: &livekit.JobState{ParticipantIdentity: "agent-" + job}},
	}}}
}

// TestStamp changes only the frames that have to be changed.
func TestStamp(t *testing.T) {
	unknown := protowire.AppendTag(nil, 900, protowire.BytesType)
	unknown = protowire.AppendString(unknown, "of a later version")
	later := yes("a")
	later.GetAvailability().ProtoReflect().SetUnknown(unknown)

	cases := map[string]struct {
		reason string
		frame  frame
		change func(frame) (frame, error)
		want   frame
	}{
		"JSON": {
			reason: "Unknown fields of the JSON stay.",
			frame:  text(`{"availability":{"jobId":"a","available":true,"mood":"good"},"trace":7}`),
			change: func(f frame) (frame, error) { m, _ := f.worker(); return f.stamp(m, "uid") },
			want:   text(`{"availability":{"available":true,"jobId":"a","mood":"good","participantAttributes":{"callguard.dev/pod":"uid"}},"trace":7}`),
		},
		"JSONSnake": {
			reason: "Both of a field's JSON names are names.",
			frame:  text(`{"availability":{"job_id":"a","available":true,"participant_attributes":{"x":"y"}}}`),
			change: func(f frame) (frame, error) { m, _ := f.worker(); return f.stamp(m, "uid") },
			want:   text(`{"availability":{"available":true,"job_id":"a","participantAttributes":{"callguard.dev/pod":"uid","x":"y"}}}`),
		},
		"JSONFull": {
			reason: "A JSON worker is reported full, too.",
			frame:  text(`{"update_worker":{"status":"WS_AVAILABLE","load":0.25,"jobCount":3}}`),
			change: func(f frame) (frame, error) { m, _ := f.worker(); return f.full(m) },
			want:   text(`{"update_worker":{"jobCount":3,"load":1,"status":"WS_FULL"}}`),
		},
		"JSONAddress": {
			reason: "An assignment in JSON gets its URL.",
			frame:  text(`{"assignment":{"job":{"id":"a"},"token":"t"}}`),
			change: func(f frame) (frame, error) { m, _ := f.server(); return f.address(m, testURL) },
			want:   text(`{"assignment":{"job":{"id":"a"},"token":"t","url":"wss://livekit.example.com"}}`),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.change(tc.frame)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(tc.want.body), string(got.body)); diff != "" || got.kind != tc.want.kind {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}

	f := binary(t, later)
	m, err := f.worker()
	if err != nil {
		t.Fatal(err)
	}
	stamped, err := f.stamp(m, "uid")
	if err != nil {
		t.Fatal(err)
	}
	got, err := stamped.worker()
	if err != nil {
		t.Fatal(err)
	}
	want := proto.Clone(later).(*livekit.WorkerMessage)
	want.GetAvailability().ParticipantAttributes[call.PodAttribute] = "uid"
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("fields of a later version must stay\n-want, +got:\n%s", diff)
	}
}

// recorded is one frame of a transcript in testdata.
type recorded struct {
	From string `json:"from"` // agent or server
	Kind int    `json:"kind"`
	Body []byte `json:"body"`
}

// transcript is the conversation of a real LiveKit Agents for Node 1.9.0 and a real
// livekit-server 1.13.5; test/gate records it with -update.
func transcript(t testing.TB) []recorded {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "node.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, maxFrame)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		t.Fatal("the transcript is empty")
	}
	return all
}

// python are the messages of a worker of LiveKit Agents for Python: it reports its jobs,
// pings, and names its jobs when it registers again.
func python(t testing.TB) []recorded {
	t.Helper()
	agent := func(m *livekit.WorkerMessage) recorded {
		return recorded{From: "agent", Kind: websocket.BinaryMessage, Body: binary(t, m).body}
	}
	server := func(m *livekit.ServerMessage) recorded {
		return recorded{From: "server", Kind: websocket.BinaryMessage, Body: binary(t, m).body}
	}
	status := func(s livekit.JobStatus) recorded {
		return agent(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: &livekit.UpdateJobStatus{JobId: "AJ_1", Status: s}}})
	}
	load := func(load float32, jobs uint32) recorded {
		return agent(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{
			Status: livekit.WorkerStatus_WS_AVAILABLE.Enum(), Load: load, JobCount: jobs,
		}}})
	}
	return []recorded{
		agent(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{
			Type: livekit.JobType_JT_ROOM, AgentName: "inbound", Version: "1.7.0", PingInterval: 30,
			AllowedPermissions: &livekit.ParticipantPermission{CanPublish: true, CanSubscribe: true, CanPublishData: true, CanUpdateMetadata: true},
		}}}),
		server(&livekit.ServerMessage{Message: &livekit.ServerMessage_Register{Register: &livekit.RegisterWorkerResponse{WorkerId: "AW_1"}}}),
		agent(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{MigrateJob: &livekit.MigrateJobRequest{JobIds: []string{"AJ_0"}}}}),
		load(0.1, 1),
		server(offerOf("AJ_1", "call-1")),
		agent(yes("AJ_1")),
		server(assignmentOf("AJ_1", "call-1")),
		status(livekit.JobStatus_JS_RUNNING),
		agent(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{Timestamp: 1}}}),
		server(&livekit.ServerMessage{Message: &livekit.ServerMessage_Pong{Pong: &livekit.WorkerPong{LastTimestamp: 1, Timestamp: 2}}}),
		load(0.2, 2),
		server(offerOf("AJ_2", "call-2")),
		agent(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{JobId: "AJ_2"}}}),
		server(&livekit.ServerMessage{Message: &livekit.ServerMessage_Termination{Termination: &livekit.JobTermination{JobId: "AJ_1"}}}),
		status(livekit.JobStatus_JS_SUCCESS),
		load(0.1, 1),
	}
}

// TestTranscripts replays the messages, both ways, through a gate: all arrive unchanged,
// except the frames that the gate has to change.
func TestTranscripts(t *testing.T) {
	for name, all := range map[string][]recorded{"Node": transcript(t), "Python": python(t)} {
		for _, draining := range []bool{false, true} {
			t.Run(name+map[bool]string{true: "Draining", false: ""}[draining], func(t *testing.T) { replay(t, all, draining) })
		}
	}
}

func replay(t *testing.T, all []recorded, draining bool) {
	p := newPair(t, nil)
	if draining {
		p.gate.book.drain("drain now")
	}
	expect := func(c *websocket.Conn) frame { return next(t, c) }
	for i, r := range all {
		f := frame{kind: r.Kind, body: r.Body}
		from, to := p.agent, p.server
		if r.From == "server" {
			from, to = p.server, p.agent
		}
		asked, m := (*livekit.ServerMessage)(nil), (*livekit.WorkerMessage)(nil)
		var err error
		if r.From == "server" {
			asked, err = f.server()
		} else {
			m, err = f.worker()
		}
		if err != nil {
			t.Fatalf("frame %d cannot be read: %v", i, err)
		}
		send(t, from, f)
		switch {
		case draining && asked.GetAvailability() != nil:
			no, err := expect(p.server).worker()
			if err != nil || no.GetAvailability().GetJobId() != asked.GetAvailability().GetJob().GetId() || no.GetAvailability().GetAvailable() || no.GetAvailability().GetTerminate() {
				t.Fatalf("frame %d: a draining gate must answer no and not terminate; got %v, %v", i, no, err)
			}
			continue
		case asked.GetAssignment() != nil:
			want := proto.Clone(asked).(*livekit.ServerMessage)
			want.GetAssignment().Url = &p.gate.media
			got, err := expect(to).server()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("frame %d\n-want, +got:\n%s", i, diff)
			}
			continue
		case m.GetAvailability().GetAvailable():
			got, err := expect(to).worker()
			if err != nil {
				t.Fatal(err)
			}
			want := proto.Clone(m).(*livekit.WorkerMessage)
			if want.GetAvailability().GetParticipantAttributes() == nil {
				want.GetAvailability().ParticipantAttributes = map[string]string{}
			}
			want.GetAvailability().ParticipantAttributes[call.PodAttribute] = "pod"
			if draining {
				want = &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: &livekit.AvailabilityResponse{JobId: m.GetAvailability().GetJobId()}}}
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("frame %d\n-want, +got:\n%s", i, diff)
			}
			continue
		case draining && m.GetUpdateWorker() != nil:
			got, err := expect(to).worker()
			if err != nil || got.GetUpdateWorker().GetStatus() != livekit.WorkerStatus_WS_FULL || got.GetUpdateWorker().GetLoad() != 1 ||
				got.GetUpdateWorker().GetJobCount() != m.GetUpdateWorker().GetJobCount() {
				t.Fatalf("frame %d: a draining worker must be reported full; got %v, %v", i, got, err)
			}
			continue
		}
		if got := expect(to); got.kind != f.kind || !bytes.Equal(got.body, f.body) {
			t.Fatalf("frame %d was changed on its way:\n%x, then\n%x", i, f.body, got.body)
		}
		if draining && m.GetRegister() != nil {
			full, err := expect(to).worker()
			if err != nil || full.GetUpdateWorker().GetStatus() != livekit.WorkerStatus_WS_FULL {
				t.Fatalf("a worker that registers while the pod drains must be reported full; got %v, %v", full, err)
			}
		}
	}
}

// FuzzFrames sends random bytes from both sides: nothing panics, what is not understood
// is passed on unchanged, and a draining pod accepts nothing.
func FuzzFrames(f *testing.F) {
	for _, r := range append(transcript(f), python(f)...) {
		f.Add(r.Kind == websocket.TextMessage, r.From == "agent", true, r.Body)
		f.Add(r.Kind == websocket.TextMessage, r.From == "agent", false, r.Body)
	}
	f.Add(true, true, true, []byte(`{"availability":{"jobId":"a","available":true}}`))
	f.Add(true, true, true, []byte(`{"availability":{"jobId":"a","available":true},"availability":null}`))
	f.Add(true, true, true, []byte(`{"updateWorker":{"load":"NaN"}}`))
	f.Add(true, false, false, []byte(`{"assignment":{}}`))
	f.Fuzz(func(t *testing.T, json, fromAgent, draining bool, body []byte) {
		in := frame{kind: websocket.BinaryMessage, body: body}
		if json {
			in.kind = websocket.TextMessage
		}
		var out []frame
		b := newBook("pod", DefaultLaunchLimit, time.Unix(0, 0), NewMetrics(prometheus.NewRegistry()))
		if draining {
			b.drain("drain now")
		}
		s := &filter{book: b, url: testURL, log: slog.New(slog.DiscardHandler)}
		verdict := s.fromServer
		if fromAgent {
			verdict = s.fromAgent
		}
		passed, answer, err := verdict(in, time.Unix(1, 0))
		for _, f := range []*frame{passed, answer} {
			if f != nil {
				out = append(out, *f)
			}
		}
		if err != nil {
			if passed == nil || !bytes.Equal(passed.body, body) || passed.kind != in.kind {
				t.Fatalf("a frame that is not understood must be passed on as it is; got %v (%v)", passed, err)
			}
			return
		}
		for _, f := range out {
			if !draining || !fromAgent {
				continue
			}
			if m, err := f.worker(); err == nil && m.GetAvailability().GetAvailable() {
				t.Fatalf("a yes got out of a draining pod: %q", f.body)
			}
		}
	})
}
