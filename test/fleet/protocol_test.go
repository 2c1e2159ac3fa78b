// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
)

// peer is LiveKit's side of one worker's websockets.
type peer struct {
	t     *testing.T
	conns chan *websocket.Conn
	conn  *websocket.Conn
}

// startPeer runs a fleet with one pod whose LiveKit is a peer.
func startPeer(t *testing.T, annotations map[string]string) (*peer, *Fleet, string) {
	t.Helper()
	p := &peer{t: t, conns: make(chan *websocket.Conn)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		select {
		case p.conns <- conn:
		case <-t.Context().Done():
			_ = conn.Close()
		}
	}))
	t.Cleanup(server.Close)
	project := Project{URL: "ws" + strings.TrimPrefix(server.URL, "http"), APIKey: "key", APISecret: "a-secret-that-is-long-enough-for-it"}
	f, _, url := startWith(t, runningPod(annotations), func(c *Config) {
		c.LiveKit = func(*corev1.Pod) (Project, bool) { return project, true }
	})
	return p, f, url
}

// accept accepts the worker's next websocket and registers it.
func (p *peer) accept() {
	p.t.Helper()
	select {
	case p.conn = <-p.conns:
	case <-time.After(deadline):
		p.t.Fatal("no worker comes")
	}
	p.t.Cleanup(func() { _ = p.conn.Close() })
	if p.read().GetRegister() == nil {
		p.t.Fatal("the first message is no registration")
	}
	p.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Register{Register: &livekit.RegisterWorkerResponse{WorkerId: "w"}}})
}

func (p *peer) send(msg *livekit.ServerMessage) {
	p.t.Helper()
	raw, err := proto.Marshal(msg)
	if err == nil {
		err = p.conn.WriteMessage(websocket.BinaryMessage, raw)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// read returns the next message that is not about load.
func (p *peer) read() *livekit.WorkerMessage {
	p.t.Helper()
	for {
		if err := p.conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			p.t.Fatal(err)
		}
		_, raw, err := p.conn.ReadMessage()
		if err != nil {
			p.t.Fatal(err)
		}
		msg := &livekit.WorkerMessage{}
		if err := proto.Unmarshal(raw, msg); err != nil {
			p.t.Fatal(err)
		}
		if msg.GetUpdateWorker() == nil {
			return msg
		}
	}
}

// assign offers a job, and assigns it when the worker has accepted.
func (p *peer) assign(id string) {
	p.t.Helper()
	p.offer(id)
	if a := p.read().GetAvailability(); !a.GetAvailable() || a.GetJobId() != id {
		p.t.Fatalf("answer to an offer = %v; want a yes", a)
	}
	p.assigned(id, refuses)
}

// refuses is an address at which nothing listens: a job fails at once.
const refuses = "ws://127.0.0.1:1"

// silent is an address that never answers: a job tries to join for its whole time.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return "ws://" + listener.Addr().String()
}

func theJob(id string) *livekit.Job {
	return &livekit.Job{Id: id, Room: &livekit.Room{Name: "room-" + id}}
}

func (p *peer) offer(id string) {
	p.t.Helper()
	p.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Availability{Availability: &livekit.AvailabilityRequest{Job: theJob(id)}}})
}

func (p *peer) assigned(id, url string) {
	p.t.Helper()
	p.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Assignment{Assignment: &livekit.JobAssignment{Job: theJob(id), Token: "token", Url: &url}}})
}

// TestPythonJobWaitsForItsProcess is case P1: between the assignment and the launch only the worker knows about the job.
func TestPythonJobWaitsForItsProcess(t *testing.T) {
	p, f, url := startPeer(t, map[string]string{ProcessSecondsAnnotation: "1", IdleProcessesAnnotation: "0"})
	p.accept()
	p.assign("late")
	eventually(t, "the job waits for its process", func() bool { return len(f.Agents()[0].Waiting) == 1 })
	if body := get(t, url+"/worker"); strings.Contains(body, "active_jobs") || f.Agents()[0].ActiveJobs != 0 {
		t.Errorf("GET /worker while a job waits for its process = %s; want no job", body)
	}
	if s := p.read().GetUpdateJob(); s.GetStatus() != livekit.JobStatus_JS_RUNNING || s.GetJobId() != "late" {
		t.Errorf("first status = %v; want the launch of the job", s)
	}
	if got := f.Agents(); len(got) == 1 && len(got[0].Waiting) != 0 {
		t.Errorf("a launched job waits: %+v", got[0])
	}
	if s := p.read().GetUpdateJob(); s.GetStatus() != livekit.JobStatus_JS_FAILED {
		t.Errorf("last status of a job that cannot join = %v; want FAILED", s)
	}
}

// TestPythonIsUpBeforeItRegisters is case P5: GET / answers OK while the worker waits for its processes.
func TestPythonIsUpBeforeItRegisters(t *testing.T) {
	p, f, url := startPeer(t, map[string]string{ProcessSecondsAnnotation: "3"})
	var body string
	eventually(t, "GET / answers", func() bool { body = get(t, url+"/"); return body != "" })
	if body != "OK" || f.Agents()[0].Registered {
		t.Errorf("GET / before any worker came = %q, registered %v; want OK, and not registered", body, f.Agents()[0].Registered)
	}
	p.accept()
	eventually(t, "the worker is registered", func() bool { return f.Agents()[0].Registered })
}

// TestPythonTellsItsJobsAgain loses the websocket during a job.
func TestPythonTellsItsJobsAgain(t *testing.T) {
	for dialect, tells := range map[Dialect]bool{Python: true, Node: false} {
		t.Run(string(dialect), func(t *testing.T) {
			p, f, _ := startPeer(t, map[string]string{DialectAnnotation: string(dialect)})
			busy(t, f)
			p.accept()
			_ = p.conn.Close()
			p.accept()
			p.offer("next") // whatever comes before the answer to it
			first := p.read()
			if ids := first.GetMigrateJob().GetJobIds(); (len(ids) == 1 && ids[0] == "job") != tells {
				t.Errorf("after the registration came %v; want the job named: %v", first, tells)
			}
			f.mu.Lock()
			f.processes["uid-1"].worker.jobs["job"].stop()
			f.mu.Unlock()
		})
	}
}

// TestLateAnswer is case P9: LiveKit has given up before the worker accepts.
func TestLateAnswer(t *testing.T) {
	p, f, _ := startPeer(t, map[string]string{AnswerSecondsAnnotation: "1"})
	p.accept()
	asked := time.Now()
	p.offer("late")
	if a := p.read().GetAvailability(); !a.GetAvailable() || time.Since(asked) < time.Second {
		t.Errorf("answer after %s = %v; want a yes after a second", time.Since(asked), a)
	}
	if got := f.Agents()[0]; got.ActiveJobs != 0 || len(got.Waiting) != 0 {
		t.Errorf("an offer that was not assigned is a job: %+v", got)
	}
}

// TestLateAssignment arrives when Python has forgotten the offer. Node has not.
func TestLateAssignment(t *testing.T) {
	for dialect, takes := range map[Dialect]bool{Python: false, Node: true} {
		t.Run(string(dialect), func(t *testing.T) {
			p, f, _ := startPeer(t, map[string]string{DialectAnnotation: string(dialect)})
			p.accept()
			p.assigned("unknown", silent(t))
			p.offer("next")
			if a := p.read().GetAvailability(); a.GetJobId() != "next" {
				t.Fatalf("answer = %v; want one to the next offer", a)
			}
			if got := f.Agents()[0].ActiveJobs == 1; got != takes {
				t.Errorf("a job whose assignment is late is started: %v; want %v", got, takes)
			}
		})
	}
}

// TestWorkerGivesUp: LiveKit is away for longer than both SDKs retry: 16 retries, up to 10 s apart.
func TestWorkerGivesUp(t *testing.T) {
	for dialect, want := range map[Dialect]time.Duration{Python: 130 * time.Second, Node: 140 * time.Second} {
		t.Run(string(dialect), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := idleWorker(1)
				w.dialect, w.project = dialect, func() (Project, bool) { return Project{}, false }
				begin := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w.run(ctx)
				if got := time.Since(begin).Round(time.Second); got != want || !w.state().failed {
					t.Errorf("the worker gave up after %s, %v; want %s", got, w.state().failed, want)
				}
			})
		})
	}
}
