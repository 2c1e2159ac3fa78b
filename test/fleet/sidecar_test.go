// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// paperGate answers like a gate without a worker.
type paperGate struct {
	server *http.Server
	ended  chan struct{}
	once   sync.Once
	held   sync.RWMutex // by Pause: it does not answer
}

func (g *paperGate) Pause() error    { g.held.Lock(); return nil }
func (g *paperGate) Continue() error { g.held.Unlock(); return nil }

func (g *paperGate) Stop() error { return g.Kill() }
func (g *paperGate) Kill() error {
	g.once.Do(func() { _ = g.server.Close(); close(g.ended) })
	return nil
}
func (g *paperGate) Done() <-chan struct{} { return g.ended }

// paperGates starts gates, and records how.
type paperGates struct {
	readyz atomic.Int64 // the status of GET /readyz

	mu    sync.Mutex
	kinds []string
	args  []string
	env   []string
}

func (gs *paperGates) start(_ *corev1.Pod, kind string, args, env []string) (GateProcess, error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.kinds, gs.args, gs.env = append(gs.kinds, kind), args, env
	listener, err := net.Listen("tcp", gs.flagLocked("status-address"))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(gs.readyz.Load())) })
	g := &paperGate{ended: make(chan struct{})}
	g.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.held.RLock()
		defer g.held.RUnlock()
		mux.ServeHTTP(w, r)
	})}
	go func() { _ = g.server.Serve(listener) }()
	return g, nil
}

func (gs *paperGates) flagLocked(name string) string {
	for _, arg := range gs.args {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

func (gs *paperGates) flag(name string) string {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.flagLocked(name)
}

func (gs *paperGates) started() int {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return len(gs.kinds)
}

// gatedPod is a pod with a gate and readiness probes, as hack/cluster starts it: unready.
func gatedPod(t *testing.T) *corev1.Pod {
	t.Helper()
	port := freePort(t)
	pod := runningPod(map[string]string{
		GateAnnotation: "this", GateArgsAnnotation: "--log-level=debug", ProbedAnnotation: "true", gatePortAnnotation: fmt.Sprint(port),
	})
	always := corev1.ContainerRestartPolicyAlways
	pod.Spec.InitContainers = []corev1.Container{{Name: "call-gate", RestartPolicy: &always, ReadinessProbe: &corev1.Probe{
		PeriodSeconds: 1, FailureThreshold: 1,
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt(port)}},
	}}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "call-gate", State: running}}
	pod.Status.ContainerStatuses[0].Ready = false
	return pod
}

// TestGateOfAPod follows a gate through its pod's life.
func TestGateOfAPod(t *testing.T) {
	gates := &paperGates{}
	gates.readyz.Store(http.StatusServiceUnavailable)
	pod := gatedPod(t)
	f, client, _ := startWith(t, pod, func(c *Config) {
		c.LiveKit = func(*corev1.Pod) (Project, bool) {
			return Project{URL: "ws://127.0.0.1:1", APIKey: "key", APISecret: "secret"}, true
		}
		c.Gate, c.Volumes = gates.start, t.TempDir()
	})
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	status := func() (ready bool, restarts int32) {
		p, err := client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
		return i >= 0 && p.Status.Conditions[i].Status == corev1.ConditionTrue, p.Status.InitContainerStatuses[0].RestartCount
	}
	if !slices.Contains(gates.env, "POD_UID=uid-1") || !slices.Contains(gates.env, "LIVEKIT_URL=ws://127.0.0.1:1") || !slices.Contains(gates.args, "--log-level=debug") {
		t.Errorf("the gate was started with %v and %v", gates.args, gates.env)
	}
	if f.Agents()[0].Gate == "" {
		t.Error("Agents does not say where the gate answers")
	}

	// The agent's GET /worker is where the gate asks for it.
	eventually(t, "GET /worker answers at 127.0.0.1", func() bool {
		return strings.Contains(get(t, "http://127.0.0.1:"+gates.flag("worker-ports")+"/worker"), "worker_type")
	})

	// Readiness is the result of the probes. An older gate has no such page.
	eventually(t, "the pod was found unready", func() bool {
		f.mu.Lock()
		k := f.kubelets[pod.UID]
		f.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.told != ""
	})
	if ready, _ := status(); ready {
		t.Error("the pod is ready, and its gate is not")
	}
	gates.readyz.Store(http.StatusNotFound)
	eventually(t, "the pod is ready", func() bool { ready, _ := status(); return ready })
	gates.readyz.Store(http.StatusServiceUnavailable)
	eventually(t, "the pod is unready", func() bool { ready, _ := status(); return !ready })
	gates.readyz.Store(http.StatusOK)
	eventually(t, "the pod is ready again", func() bool { ready, _ := status(); return ready })
	resume, err := f.PauseGate(name)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is unready while its gate says nothing", func() bool { ready, _ := status(); return !ready })
	if err := resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is ready when its gate goes on", func() bool { ready, restarts := status(); return ready && restarts == 0 })

	// The mark appears in the file as with a kubelet, and stays there when the gate is killed.
	order := gates.flag("order-file")
	if raw, err := os.ReadFile(order); err != nil || strings.Contains(string(raw), DrainingAnnotation) {
		t.Errorf("before the order its file holds %q, %v; want other annotations", raw, err)
	}
	annotate(t, client, map[string]string{DrainingAnnotation: drainMark})
	eventually(t, "the order is in its file", func() bool {
		raw, err := os.ReadFile(order)
		return err == nil && strings.Contains(string(raw), fmt.Sprintf("%s=%q\n", DrainingAnnotation, drainMark))
	})
	if to, err := os.Readlink(order); err != nil || to != filepath.Join("..data", "annotations") {
		t.Errorf("the order's file leads to %q, %v; want the kubelet's link", to, err)
	}
	if err := os.WriteFile(filepath.Join(gates.flag("journal"), "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.KillGate(name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gate was started again, with its files, and is ready", func() bool {
		ready, restarts := status()
		_, err := os.Stat(filepath.Join(gates.flag("journal"), "kept"))
		return gates.started() == 2 && ready && restarts == 1 && err == nil
	})
	if f.Agents()[0].ActiveJobs != 0 || !f.Agents()[0].Closed {
		t.Errorf("agent under the order = %+v; want it closed", f.Agents()[0])
	}
}

// TestGateEndsAfterItsAgent deletes a pod: a native sidecar outlives the containers it serves.
func TestGateEndsAfterItsAgent(t *testing.T) {
	gates := &paperGates{}
	gates.readyz.Store(http.StatusOK)
	pod := gatedPod(t)
	f, client, _ := startWith(t, pod, func(c *Config) {
		c.LiveKit = func(*corev1.Pod) (Project, bool) {
			return Project{URL: "ws://127.0.0.1:1", APIKey: "key", APISecret: "secret"}, true
		}
		c.Gate, c.Volumes = gates.start, t.TempDir()
	})
	busy(t, f)
	answers := func() bool {
		resp, err := http.Get("http://" + gates.flag("status-address") + "/healthz")
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Body.Close() == nil
	}
	terminate(t, client, deadline)
	eventually(t, "the process drains", func() bool { return f.Agents()[0].Draining })
	if !answers() {
		t.Error("the gate ended before its agent")
	}
	f.mu.Lock()
	j := f.processes["uid-1"].worker.jobs["job"]
	f.mu.Unlock()
	j.stop()
	eventually(t, "the exit is in the pod's status", func() bool { return terminated(t, client) != nil })
	if answers() {
		t.Error("the gate outlived its pod")
	}
	if gates.started() != 1 {
		t.Errorf("%d gates were started; want one", gates.started())
	}
}
