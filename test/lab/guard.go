// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/hack/cluster/local"
)

// The names in the guard's manifests, and the group that the admission policies let
// through.
const (
	GuardNamespace  = "callguard-system"
	GuardName       = "drain-guard"
	BreakGlassGroup = "callguard:break-glass"

	adminGroup = "system:masters"
	guardUser  = "system:serviceaccount:" + GuardNamespace + ":" + GuardName
)

const (
	readyWithin = 5 * time.Minute
	startAgain  = time.Second
)

// Guard is a drain-guard. As under a kubelet, its process is restarted when it exits by
// itself, but not after Stop or Kill. If it loses its lease it does not exit: it stands
// by, and may lead again.
type Guard struct {
	Port int
	Log  string // file

	start func() (*Process, error)
	url   string

	mu      sync.Mutex
	process *Process
	ended   bool // on purpose
}

// Manifest returns the path of a file in manifests.
func Manifest(name string) (string, error) {
	root, err := repository()
	return filepath.Join(root, "manifests", name), err
}

// guardManifests are the files with a guard's rights and admission policies.
func guardManifests() []string { return []string{"drain-guard.yaml", "lookout.yaml", "doors.yaml"} }

// InstallGuard applies the guard's rights and admission policies. It starts no guard.
func (l *Lab) InstallGuard(ctx context.Context) error {
	l.printf("installing the drain-guard and its doors")
	path, err := WriteManifests(l.Client.Discovery(), l.Cluster.Dir(), guardManifests()...)
	if err != nil {
		return err
	}
	_, err = l.Kubectl(ctx, "apply", "--server-side", "-f", path)
	return err
}

// StartGuard starts a drain-guard for the first LiveKit, with the rights of its service
// account. There may be several. It returns before the guard is ready.
func (l *Lab) StartGuard(ctx context.Context, args ...string) (*Guard, error) {
	program, err := l.program(ctx, GuardName)
	if err != nil {
		return nil, err
	}
	return l.StartGuardOf(ctx, program, append([]string{"--livekit-allow-cidr=" + loopback}, args...)...)
}

// StartGuardOf is StartGuard with another program, such as one of an earlier checkout.
func (l *Lab) StartGuardOf(ctx context.Context, program string, args ...string) (*Guard, error) {
	common, err := l.guardFlags(ctx)
	if err != nil {
		return nil, err
	}
	key, secret, err := l.keyFiles()
	if err != nil {
		return nil, err
	}
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, err
	}
	liveKit, err := l.guardLiveKit()
	if err != nil {
		return nil, err
	}
	g := &Guard{Port: ports[0], Log: l.log(GuardName, ports[0]), url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	common = append(common,
		fmt.Sprintf("--bind-address=127.0.0.1:%d", g.Port),
		"--livekit-url="+liveKit, "--livekit-api-key-file="+key, "--livekit-api-secret-file="+secret)
	args = append(common, args...)
	l.mu.Lock()
	ahead := l.clock
	if len(l.guards)%2 == 1 {
		ahead *= -3
	}
	l.mu.Unlock()
	g.start = func() (*Process, error) {
		return l.start(environment(ahead), GuardName, program, g.Log, g.Port, args...)
	}
	if g.process, err = g.start(); err != nil {
		return nil, err
	}
	go g.keep(g.process)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guards = append(l.guards, g)
	return g, nil
}

// keep restarts the process whenever it exits by itself.
func (g *Guard) keep(p *Process) {
	for {
		<-p.ended
		<-time.After(startAgain)
		g.mu.Lock()
		if g.ended {
			g.mu.Unlock()
			return
		}
		next, err := g.start()
		if err != nil { // the log has the error; the guard is not ready
			g.mu.Unlock()
			return
		}
		g.process, p = next, next
		g.mu.Unlock()
	}
}

// Stop asks the guard to end and waits for it. It may be called after that.
func (g *Guard) Stop() error { return g.end((*Process).Stop) }

// Kill ends the guard with SIGKILL and waits for it.
func (g *Guard) Kill() error { return g.end((*Process).Kill) }

// Pause pauses the guard's process, like an overloaded machine: its lease expires without
// its knowledge.
func (g *Guard) Pause() error { return g.do((*Process).Pause) }

// Continue resumes it.
func (g *Guard) Continue() error { return g.do((*Process).Continue) }

func (g *Guard) do(what func(*Process) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return what(g.process)
}

func (g *Guard) end(how func(*Process) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	return how(g.process)
}

// Unlock runs `drain-guard unlock` and returns its output.
func (l *Lab) Unlock(ctx context.Context) (string, error) {
	program, err := l.program(ctx, GuardName)
	if err != nil {
		return "", err
	}
	common, err := l.guardFlags(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"unlock"}, common...)...)
	cmd.Env = append(os.Environ(), environment(l.clock)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("drain-guard unlock: %w: %s", err, out)
	}
	return string(out), nil
}

// guardFlags are the flags that tell a guard its namespace and account.
func (l *Lab) guardFlags(ctx context.Context) ([]string, error) {
	kubeconfig, err := l.Cluster.ServiceAccountKubeconfig(ctx, GuardNamespace, GuardName)
	if err == nil {
		kubeconfig, err = l.guardKubeconfig(kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	return []string{"--kubeconfig=" + kubeconfig, "--namespace=" + GuardNamespace}, nil
}

// WaitReady waits until the guard reports that it is ready: its informers are synced and
// the policies are in effect.
func (g *Guard) WaitReady(ctx context.Context) error {
	err := Eventually(ctx, readyWithin, "the drain-guard is ready", func() (bool, error) {
		err := g.Ready(ctx)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w; see %s", err, g.Log)
	}
	return nil
}

// Ready returns why the guard is not ready; nil if it is.
func (g *Guard) Ready(ctx context.Context) error {
	_, err := g.get(ctx, "/readyz")
	return err
}

// Metrics reads the guard's own metrics.
func (g *Guard) Metrics(ctx context.Context) (Metrics, error) {
	text, err := g.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(text)
}

func (g *Guard) get(ctx context.Context, path string) (string, error) {
	return read(ctx, http.DefaultClient, g.url+path)
}

// read requests a page of a program.
func read(ctx context.Context, client *http.Client, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %s", url, answer.Status, body)
	}
	return string(body), nil
}

// breakGlass is the client of a member of the break-glass group.
func (l *Lab) breakGlass() (kubernetes.Interface, error) {
	config, err := l.Cluster.RESTConfig("breaker", adminGroup, BreakGlassGroup)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
