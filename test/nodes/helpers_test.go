// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/test/trial"
)

const pace = 100 * time.Millisecond

// command runs a program against the cluster and returns its output.
func command(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "KUBECONFIG="+stage.kubeconfig, "HELM_CACHE_HOME="+os.TempDir(), "HELM_CONFIG_HOME="+os.TempDir(), "HELM_DATA_HOME="+os.TempDir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", program[strings.LastIndex(program, "/")+1:], strings.Join(args, " "), err, out.String())
	}
	return out.String(), err
}

func helm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), stage.helm, args...)
	if err != nil {
		describe(t)
		t.Fatal(err)
	}
	return out
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), stage.kubectl, args...)
	if err != nil {
		describe(t)
		t.Fatal(err)
	}
	return out
}

// asWritten runs the commands that README.md shows first after a text, in a folder like a checkout, with these words replaced
// and more arguments added to the last command.
func asWritten(t *testing.T, after string, words map[string]string, more string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, "README.md"))
	trial.Must(t, err)
	_, rest, found := strings.Cut(string(raw), after)
	_, rest, open := strings.Cut(rest, "\n```\n")
	lines, _, closed := strings.Cut(rest, "\n```\n")
	if !found || !open || !closed {
		t.Fatalf("README.md shows no commands after %q", after)
	}
	script := regexp.MustCompile(`\b[A-Z]{3,}\b`).ReplaceAllStringFunc(lines, func(word string) string {
		if as, ok := words[word]; ok {
			return as
		}
		return word
	}) + more
	dir, bin := t.TempDir(), t.TempDir()
	root, err := filepath.Abs(repository)
	trial.Must(t, err)
	trial.Must(t, errors.Join(
		os.Symlink(filepath.Join(root, "charts"), filepath.Join(dir, "charts")),
		os.Symlink(stage.helm, filepath.Join(bin, "helm")), os.Symlink(stage.kubectl, filepath.Join(bin, "kubectl")),
		os.WriteFile(filepath.Join(dir, "key.txt"), []byte("sk-of-nobody"), 0o600),
		os.WriteFile(filepath.Join(dir, "small.yaml"), []byte(small()), 0o600),
	))
	out, err := command(t.Context(), "bash", "-euc", "cd "+dir+"\nPATH="+bin+":$PATH\n"+script)
	if err != nil {
		describe(t)
		t.Fatal(err)
	}
	t.Logf("as README.md says:\n%s", out)
}

// describe describes the cluster, for a failed test.
func describe(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp", "--field-selector=type=Warning"},
		{"logs", "-n", addonNamespace, "-l", "app.kubernetes.io/name=drain-guard", "--tail=15", "--prefix"},
		{"logs", "-n", addonNamespace, "-l", "app.kubernetes.io/name=metrics-adapter", "--tail=15", "--prefix"},
		{"logs", "-n", privateNamespace, "-l", "app.kubernetes.io/component=agent", "--all-containers", "--tail=20", "--prefix"},
	} {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 15*time.Second)
		out, err := command(ctx, stage.kubectl, args...)
		cancel()
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Logf("kubectl %s (%v)\n%s", strings.Join(args, " "), err, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// describeDropped returns what LiveKit, the gates and the agents logged about dropped calls.
func (p *phones) describeDropped(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	dropped := slices.Clone(p.dropped)
	p.mu.Unlock()
	if len(dropped) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	out, err := command(ctx, stage.kubectl, "logs", "-n", voiceNamespace, "-l", "app.kubernetes.io/instance="+voice, "--all-containers", "--prefix", "--tail=-1", "--max-log-requests=100")
	for _, one := range dropped {
		room, _, _ := strings.Cut(one, ":")
		var lines []string
		for line := range strings.Lines(out) {
			if strings.Contains(line, room) && !strings.Contains(line, "RoomService.ListParticipants") {
				lines = append(lines, line)
			}
		}
		t.Logf("%s (%v)\n%s", one, err, strings.Join(lines[max(0, len(lines)-30):], ""))
	}
	var warnings []string // an agent's process logs its job, and not the room
	for line := range strings.Lines(out) {
		if strings.Contains(line, `{"level":40`) || strings.Contains(line, `{"level":50`) {
			warnings = append(warnings, line)
		}
	}
	t.Logf("the agents warn\n%s", strings.Join(warnings[max(0, len(warnings)-40):], ""))
}

// eventually waits until holds returns nil.
func eventually(t *testing.T, within time.Duration, what string, holds func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(pace) {
		if err = holds(); err == nil {
			return
		}
	}
	describe(t)
	t.Fatalf("did not happen within %s: %s: %v", within, what, err)
}

// pods returns the pods of a namespace with these labels that are not being deleted.
func pods(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	list, err := stage.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	trial.Must(t, err)
	var out []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// phones dial calls and record those that end before they are hung up.
type phones struct {
	url, key, secret string

	mu      sync.Mutex
	up      map[string]*phone // by room
	dropped []string
}

type phone struct {
	room *lksdk.Room
	over bool // hung up
}

// dial joins a caller to a new room, and returns once an agent is there: one with that name, if one is given.
func (p *phones) dial(t *testing.T, name string, agents ...string) {
	t.Helper()
	if err := p.try(name, agents...); err != nil {
		describe(t)
		t.Fatal(err)
	}
}

// errNotJoined means that a caller is in no room: LiveKit and it did not connect in time, which has nothing to do with agents.
var errNotJoined = errors.New("a caller cannot join room")

// try does the same, and returns why nobody answered. On a busy machine LiveKit and a caller may not connect in time; then
// people dial again.
func (p *phones) try(name string, agents ...string) error {
	err := p.once(name, agents...)
	if errors.Is(err, errNotJoined) {
		err = p.once(name, agents...)
	}
	return err
}

func (p *phones) once(name string, agents ...string) error {
	one := &phone{}
	lost := func(why string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !one.over {
			one.over = true
			p.dropped = append(p.dropped, name+": "+why)
		}
	}
	answered := make(chan struct{})
	var once sync.Once
	callback := lksdk.NewRoomCallback()
	agentCame := func(r *lksdk.RemoteParticipant) {
		if r.Kind() == lksdk.ParticipantAgent {
			once.Do(func() { close(answered) })
		}
	}
	callback.OnParticipantConnected = agentCame
	callback.OnParticipantDisconnected = func(r *lksdk.RemoteParticipant) {
		if r.Kind() == lksdk.ParticipantAgent {
			lost(fmt.Sprintf("its agent %s left at %s: %s", r.Identity(), time.Now().UTC().Format(time.TimeOnly), r.DisconnectReason()))
		}
	}
	callback.OnDisconnectedWithReason = func(reason lksdk.DisconnectionReason) { lost("disconnected: " + string(reason)) }
	token := auth.NewAccessToken(p.key, p.secret).SetIdentity("caller-" + name).SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: name})
	for _, agent := range agents {
		token.SetAgents(&livekit.RoomAgentDispatch{AgentName: agent})
	}
	ticket, err := token.ToJWT()
	if err != nil {
		return err
	}
	room, err := lksdk.ConnectToRoomWithToken(p.url, ticket, callback)
	if err != nil {
		p.mu.Lock()
		one.over = true
		p.mu.Unlock()
		return fmt.Errorf("%w %s: %w", errNotJoined, name, err)
	}
	one.room = room
	for _, r := range room.GetRemoteParticipants() {
		agentCame(r)
	}
	select {
	case <-answered:
	case <-time.After(3 * time.Minute):
		return fmt.Errorf("no agent answered in room %s within 3 minutes", name)
	}
	p.mu.Lock()
	p.up[name] = one
	p.mu.Unlock()
	return nil
}

// hangUp ends calls.
func (p *phones) hangUp(names ...string) {
	for _, name := range names {
		p.mu.Lock()
		one := p.up[name]
		delete(p.up, name)
		if one != nil {
			one.over = true
		}
		p.mu.Unlock()
		if one != nil {
			one.room.Disconnect()
		}
	}
}

// going lists the calls in progress.
func (p *phones) going() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.up {
		names = append(names, name)
	}
	return names
}

// noneDropped fails if a call was dropped, which is what all these tests are about.
func (p *phones) noneDropped(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.dropped) > 0 {
		describe(t)
		t.Fatalf("%d calls were dropped:\n%s", len(p.dropped), strings.Join(p.dropped, "\n"))
	}
}

// agent is an agent in a room.
type agent struct {
	*livekit.ParticipantInfo

	room string
}

// agents returns those in the rooms of the calls in progress, according to LiveKit.
func (p *phones) agents(t *testing.T) []agent {
	t.Helper()
	api := lksdk.NewRoomServiceClient(p.url, p.key, p.secret)
	var agents []agent
	for _, name := range p.going() {
		list, err := api.ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: name})
		trial.Must(t, err)
		for _, one := range list.GetParticipants() {
			if one.GetKind() == livekit.ParticipantInfo_AGENT {
				agents = append(agents, agent{one, name})
			}
		}
	}
	return agents
}

// holders returns the rooms of each pod, by its UID.
func (p *phones) holders(t *testing.T) map[string][]string {
	t.Helper()
	rooms := map[string][]string{}
	for _, a := range p.agents(t) {
		uid := a.GetAttributes()[podAttribute]
		rooms[uid] = append(rooms[uid], a.room)
	}
	return rooms
}

// metric reads a custom metric as an autoscaler does.
func metric(t *testing.T, path string) (string, error) {
	t.Helper()
	raw, err := stage.client.Discovery().RESTClient().Get().AbsPath("/apis/custom.metrics.k8s.io/v1beta2/" + path).DoRaw(t.Context())
	if err != nil {
		return "", err
	}
	var list struct{ Items []struct{ Value string } }
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", err
	}
	if len(list.Items) != 1 {
		return "", fmt.Errorf("%d items in %s", len(list.Items), raw)
	}
	return list.Items[0].Value, nil
}
