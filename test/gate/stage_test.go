// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/pkg/call"
	witness "github.com/callguard/callguard/pkg/witness/gate"
	"github.com/callguard/callguard/test/trial"
)

const (
	// pace is the interval at which a test checks a condition.
	pace = 50 * time.Millisecond
	// patience is how long it waits for something that only has to happen. An agent's
	// process takes seconds of CPU to start, and many times that on a busy machine.
	patience = 3 * time.Minute
)

// program is a process of the test, with its output in a file.
type program struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs a program until the test ends. It gets its own process group, so that an
// agent's job processes are killed with it.
func start(t *testing.T, name, dir string, env []string, path string, args ...string) *program {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(t.TempDir(), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p := &program{name: name, cmd: exec.Command(path, args...), log: log.Name(), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", name, err)
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			raw, _ := os.ReadFile(p.log)
			t.Logf("the log of %s ends with:\n%s", name, raw[max(0, len(raw)-2500):])
		}
	})
	return p
}

// kill ends the program and all its children at once, and waits.
func (p *program) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may be gone
	<-p.done
}

func (p *program) says(t *testing.T, text string) bool {
	t.Helper()
	raw, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(raw, []byte(text))
}

// server is a real livekit-server.
type server struct {
	*program

	url, key, secret string
	rooms            *lksdk.RoomServiceClient
	config           string
}

// freePorts returns ports that no test got before, because an earlier one may start to
// listen later, or again. The tests of this package run one after the other.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports, err := local.FreePorts(n, stage.ports...)
	if err != nil {
		t.Fatal(err)
	}
	stage.ports = append(stage.ports, ports...)
	return ports
}

// startLiveKit starts a livekit-server that offers jobs to workers whatever their load.
func startLiveKit(t *testing.T) *server {
	t.Helper()
	ports := freePorts(t, 2)
	s := newServer(t, ports)
	s.start(t)
	return s
}

func newServer(t *testing.T, ports []int) *server {
	t.Helper()
	s := &server{url: fmt.Sprintf("ws://127.0.0.1:%d", ports[0]), key: "APIgatetest", secret: "a-secret-of-this-test-that-is-long-enough"}
	raw, err := json.Marshal(map[string]any{
		"port": ports[0], "bind_addresses": []string{"127.0.0.1"},
		"rtc": map[string]any{
			"tcp_port": ports[1], "udp_port": ports[1], "node_ip": "127.0.0.1", "use_external_ip": false, "enable_loopback_candidate": true,
		},
		"keys":    map[string]string{s.key: s.secret},
		"room":    map[string]any{"auto_create": true, "empty_timeout": 10, "departure_timeout": 2},
		"agents":  map[string]any{"target_load": 1},
		"logging": map[string]any{"level": "warn"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.config = filepath.Join(t.TempDir(), "livekit.yaml")
	if err := os.WriteFile(s.config, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s.rooms = lksdk.NewRoomServiceClient(s.url, s.key, s.secret)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.program = start(t, "livekit", "", nil, stage.livekit, "--config", s.config)
	trial.Within(t, patience, "livekit-server answers", func() error {
		_, err := s.rooms.ListRooms(t.Context(), &livekit.ListRoomsRequest{})
		return err
	})
}

// agents returns the agent participants in LiveKit's rooms, as its API lists them.
func (s *server) agents(t *testing.T) []*livekit.ParticipantInfo {
	t.Helper()
	var agents []*livekit.ParticipantInfo
	rooms, err := s.rooms.ListRooms(t.Context(), &livekit.ListRoomsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range rooms.GetRooms() {
		list, err := s.rooms.ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: room.GetName()})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list.GetParticipants() {
			if p.GetKind() == livekit.ParticipantInfo_AGENT && p.GetState() != livekit.ParticipantInfo_DISCONNECTED {
				agents = append(agents, p)
			}
		}
	}
	return agents
}

// dial joins a caller to a new room.
func (s *server) dial(t *testing.T, room string) *lksdk.Room {
	t.Helper()
	caller, err := lksdk.ConnectToRoom(s.url, lksdk.ConnectInfo{
		APIKey: s.key, APISecret: s.secret, RoomName: room, ParticipantIdentity: "caller-" + room,
	}, lksdk.NewRoomCallback())
	if err != nil {
		t.Fatalf("a caller cannot join room %s: %v", room, err)
	}
	t.Cleanup(caller.Disconnect)
	return caller
}

// answered waits until the agent of a room has joined it.
func (s *server) answered(t *testing.T, room string) error {
	t.Helper()
	var err error
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(pace) {
		list, lerr := s.rooms.ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: room})
		if lerr != nil {
			return lerr
		}
		for _, p := range list.GetParticipants() {
			if p.GetKind() == livekit.ParticipantInfo_AGENT && p.GetState() == livekit.ParticipantInfo_ACTIVE {
				return nil
			}
		}
		err = fmt.Errorf("no agent answers in room %s: %v", room, list.GetParticipants())
	}
	return err
}

// sidecar is a call-gate process with the files of its pod.
type sidecar struct {
	*program

	t         *testing.T
	env, args []string
	agentURL  string
	status    string
	uid       string
	volume    string // the downwardAPI volume
	files     int
}

// startGate starts a call-gate as in a pod.
func startGate(t *testing.T, s *server, workerPort int, args ...string) *sidecar {
	t.Helper()
	g := newGate(t, s, workerPort, args...)
	g.start()
	return g
}

// newGate returns a call-gate that is not started yet.
func newGate(t *testing.T, s *server, workerPort int, args ...string) *sidecar {
	t.Helper()
	ports := freePorts(t, 2)
	g := &sidecar{
		t: t, uid: "4d6e4a3c-0000-4000-8000-" + fmt.Sprintf("%012d", ports[0]), volume: t.TempDir(),
		agentURL: fmt.Sprintf("ws://127.0.0.1:%d", ports[0]), status: fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
	}
	g.annotate(map[string]string{"prometheus.io/scrape": "true"})
	g.env = []string{"LIVEKIT_URL=" + s.url, "LIVEKIT_API_KEY=" + s.key, "LIVEKIT_API_SECRET=" + s.secret, "POD_UID=" + g.uid}
	g.args = append([]string{
		fmt.Sprintf("--bind-address=127.0.0.1:%d", ports[0]), fmt.Sprintf("--status-address=127.0.0.1:%d", ports[1]),
		"--order-file=" + filepath.Join(g.volume, "annotations"), "--worker-ports=" + strconv.Itoa(workerPort), "--log-level=debug",
	}, args...)
	return g
}

func (g *sidecar) start() {
	g.t.Helper()
	g.program = start(g.t, "gate", "", g.env, stage.gate, g.args...)
	trial.Within(g.t, patience, "the gate answers", func() error { _, err := g.ask(); return err })
}

func (g *sidecar) ask() (witness.Answer, error) {
	var a witness.Answer
	resp, err := http.Get(g.status + witness.Path)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

func (g *sidecar) calls() witness.Answer {
	g.t.Helper()
	a, err := g.ask()
	if err != nil {
		g.t.Fatalf("the gate does not answer: %v", err)
	}
	return a
}

// annotate writes the pod's annotations as the kubelet does: into a folder with a new
// name, to which a link is then switched atomically.
func (g *sidecar) annotate(annotations map[string]string) {
	g.t.Helper()
	var text strings.Builder
	for k, v := range annotations {
		fmt.Fprintf(&text, "%s=%q\n", k, v)
	}
	g.files++
	dir := fmt.Sprintf("..2026_01_02_15_04_05.%d", g.files)
	link := filepath.Join(g.volume, "..data")
	err := errors.Join(
		os.Mkdir(filepath.Join(g.volume, dir), 0o755),
		os.WriteFile(filepath.Join(g.volume, dir, "annotations"), []byte(text.String()), 0o644),
		os.Symlink(dir, link+"_tmp"),
		os.Rename(link+"_tmp", link),
	)
	if _, lerr := os.Lstat(filepath.Join(g.volume, "annotations")); lerr != nil {
		err = errors.Join(err, os.Symlink("..data/annotations", filepath.Join(g.volume, "annotations")))
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// order orders the pod to drain, and returns how long the gate took to report it.
func (g *sidecar) order() time.Duration {
	g.t.Helper()
	mark := call.Mark{Intent: call.NodeDrain, At: time.Now()}.String()
	written := time.Now()
	g.annotate(map[string]string{"prometheus.io/scrape": "true", call.DrainingAnnotation: mark})
	for time.Since(written) < 10*time.Second {
		if a := g.calls(); a.Draining == mark {
			return time.Since(written)
		}
	}
	g.t.Fatal("the gate did not acknowledge the order within 10 s")
	return 0
}

// agent is a real LiveKit agent for Node.
type agent struct {
	*program

	port int
}

// startAgent starts the agent of agent/agent.mjs, or another entry file, and waits until
// it has registered.
func startAgent(t *testing.T, s *server, url string, port int, entry string, env ...string) *agent {
	t.Helper()
	a := launchAgent(t, s, url, port, entry, env...)
	trial.Within(t, patience, "the agent registers", func() error {
		if !a.says(t, "registered worker") {
			return errors.New("its log does not say so")
		}
		return nil
	})
	return a
}

// jobs returns the number of jobs that the agent reports.
func (a *agent) jobs(t *testing.T) int {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/worker", a.port))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		ActiveJobs int `json:"active_jobs"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.ActiveJobs
}

func launchAgent(t *testing.T, s *server, url string, port int, entry string, env ...string) *agent {
	t.Helper()
	env = append([]string{
		"LIVEKIT_URL=" + url, "LIVEKIT_API_KEY=" + s.key, "LIVEKIT_API_SECRET=" + s.secret, "PORT=" + strconv.Itoa(port),
	}, env...)
	return &agent{program: start(t, "agent", stage.modules, env, "node", entry, "start"), port: port}
}

// quantile of durations.
func quantile(q float64, all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
