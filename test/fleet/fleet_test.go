// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/hack/cluster/local"
)

const deadline = time.Minute

// eventually waits until ok, and otherwise fails with what.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", deadline, what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	ports, err := local.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

func runningPod(annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "voice", Name: "agent", UID: "uid-1", Labels: map[string]string{GuardedLabel: "true"}, Annotations: annotations,
		},
		Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "agent"}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "127.0.0.1",
			ContainerStatuses: []corev1.ContainerStatus{{Name: "agent", Ready: true, State: corev1.ContainerState{
				Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()},
			}}},
		},
	}
}

// start runs a fleet with one pod on one node, without LiveKit, and waits until the pod's process runs.
func start(t *testing.T, pod *corev1.Pod) (*Fleet, *fake.Clientset, string) {
	t.Helper()
	return startWith(t, pod, func(*Config) {})
}

// startWith is start with another Config.
func startWith(t *testing.T, pod *corev1.Pod, change func(*Config)) (*Fleet, *fake.Clientset, string) {
	t.Helper()
	client := fake.NewClientset(pod, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName}})
	port := freePort(t)
	cfg := Config{
		Client: client, Port: port,
		NodeClient: func(node string) (kubernetes.Interface, error) {
			if node != pod.Spec.NodeName {
				return nil, fmt.Errorf("asked for node %q", node)
			}
			return client, nil
		},
		LiveKit: func(*corev1.Pod) (Project, bool) { return Project{}, false },
	}
	change(&cfg)
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run = %v", err)
			}
		case <-time.After(deadline):
			t.Error("Run does not end")
		}
		if _, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
			t.Error("a process still listens after Run")
		}
	})
	eventually(t, "the process runs", func() bool { return len(f.Agents()) == 1 })
	// Unlike a real API, the fake one does not send a watch the events since the list.
	eventually(t, "pods and nodes are watched", func() bool { return watched(client, "pods") && watched(client, "nodes") })
	return f, client, fmt.Sprintf("http://127.0.0.1:%d", port)
}

// watched reports whether a watch of these objects has started.
func watched(client *fake.Clientset, resource string) bool {
	return slices.ContainsFunc(client.Actions(), func(a clienttesting.Action) bool { return a.Matches("watch", resource) })
}

func terminated(t *testing.T, client kubernetes.Interface) *corev1.ContainerStateTerminated {
	t.Helper()
	pod, err := client.CoreV1().Pods("voice").Get(t.Context(), "agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod.Status.ContainerStatuses[0].State.Terminated
}

func terminate(t *testing.T, client kubernetes.Interface, grace time.Duration) {
	t.Helper()
	pod, err := client.CoreV1().Pods("voice").Get(t.Context(), "agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	end := metav1.NewTime(time.Now().Add(grace))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &end, new(int64(grace/time.Second))
	if _, err := client.CoreV1().Pods("voice").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestIdleProcessExitsAfterDrain(t *testing.T) {
	for dialect, code := range map[Dialect]int32{Python: 0, Node: 143} {
		t.Run(string(dialect), func(t *testing.T) {
			f, client, _ := start(t, runningPod(map[string]string{DialectAnnotation: string(dialect)}))
			terminate(t, client, time.Minute)
			eventually(t, "the exit is in the pod's status", func() bool { return terminated(t, client) != nil })
			if got := terminated(t, client).ExitCode; got != code {
				t.Errorf("exit code %d; want %d", got, code)
			}
			if agents := f.Agents(); len(agents) != 0 {
				t.Errorf("Agents = %v after the exit; want none", agents)
			}
		})
	}
}

// busy gives the only process a job that ends only when it is killed.
func busy(t *testing.T, f *Fleet) *process {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.processes["uid-1"]
	place(p.worker, "job")
	j := p.worker.jobs["job"]
	killed, stop := context.WithCancel(context.Background())
	j.stop, j.project = stop, "ws://livekit"
	p.worker.jobsRunning.Go(func() {
		<-killed.Done()
		finish(p.worker, "job")
	})
	return p
}

func TestCallsOfAProcessThatIsEnded(t *testing.T) {
	pods := func(c kubernetes.Interface) error {
		return c.CoreV1().Pods("voice").Delete(t.Context(), "agent", metav1.DeleteOptions{})
	}
	tests := map[string]struct {
		reason string
		end    func(*testing.T, *Fleet, kubernetes.Interface)
		want   Cause
	}{
		"EndOfGrace": {
			reason: "A job outlives SIGTERM and ends with the grace.",
			end:    func(t *testing.T, _ *Fleet, c kubernetes.Interface) { terminate(t, c, time.Second) },
			want:   CauseGrace,
		},
		"Forced": {
			reason: "A deleted pod object ends its process.",
			end: func(t *testing.T, _ *Fleet, c kubernetes.Interface) {
				if err := pods(c); err != nil {
					t.Fatal(err)
				}
			},
			want: CauseForced,
		},
		"Node": {
			reason: "A deleted node ends its processes.",
			end: func(t *testing.T, _ *Fleet, c kubernetes.Interface) {
				if err := c.CoreV1().Nodes().Delete(t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			want: CauseNode,
		},
		"Crash": {
			reason: "Kill is a crash.",
			end: func(t *testing.T, f *Fleet, _ kubernetes.Interface) {
				if err := f.Kill(types.NamespacedName{Namespace: "voice", Name: "agent"}); err != nil {
					t.Fatal(err)
				}
			},
			want: CauseCrash,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f, client, _ := start(t, runningPod(nil))
			busy(t, f)
			var told []Loss
			heard := make(chan struct{})
			defer f.losses.watch(func(l Loss) { told = append(told, l); close(heard) })()
			tc.end(t, f, client)
			select {
			case <-heard:
			case <-time.After(deadline):
				t.Fatalf("%s No loss was reported.", tc.reason)
			}
			got := told[0]
			if got.Cause != tc.want || got.Room != "room-job" || got.Pod.Name != "agent" || got.Node != "node-1" || got.project != "ws://livekit" {
				t.Errorf("%s Loss = %+v; want cause %q", tc.reason, got, tc.want)
			}
		})
	}
}

// TestCauseOfAPodThatIsGone deletes a pod before its process's own timer has fired.
func TestCauseOfAPodThatIsGone(t *testing.T) {
	tests := map[string]struct {
		reason string
		grace  time.Duration // left; none means no SIGTERM
		node   string        // that exists
		want   Cause
	}{
		"AfterGrace":  {reason: "Its grace was over, whoever saw that first.", grace: -time.Millisecond, node: "node-1", want: CauseGrace},
		"WithinGrace": {reason: "It had grace left.", grace: time.Minute, node: "node-1", want: CauseForced},
		"NoGrace":     {reason: "It was given no grace period.", node: "node-1", want: CauseForced},
		"NoNode":      {reason: "It went with its node.", node: "node-2", want: CauseNode},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := New(Config{
				Client: fake.NewClientset(), NodeClient: func(string) (kubernetes.Interface, error) { return fake.NewClientset(), nil },
				LiveKit: func(*corev1.Pod) (Project, bool) { return Project{}, false },
			})
			if err != nil {
				t.Fatal(err)
			}
			known := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
			if err := known.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: tc.node}}); err != nil {
				t.Fatal(err)
			}
			f.nodes = corelisters.NewNodeLister(known)
			pod := runningPod(nil)
			p, err := newProcess(pod, f.cfg, nil, f.losses)
			if err != nil {
				t.Fatal(err)
			}
			f.processes[pod.UID], f.alive[pod.UID] = p, true
			if tc.grace != 0 {
				p.terminate(tc.grace)
			}
			f.gone(pod)
			if p.cause != tc.want {
				t.Errorf("%s cause %q; want %q", tc.reason, p.cause, tc.want)
			}
		})
	}
}

func TestProcessWaitsForItsJobs(t *testing.T) {
	f, client, url := start(t, runningPod(nil))
	p := busy(t, f)
	terminate(t, client, time.Minute)
	eventually(t, "the process drains", func() bool { return f.Agents()[0].Draining })
	if body := get(t, url+"/worker"); body != string(Python.encode(workerInfo{ActiveJobs: 1, Load: 0.1})) {
		t.Errorf("GET /worker of a draining process = %s", body)
	}
	if terminated(t, client) != nil {
		t.Error("the process exited under its job")
	}
	p.worker.jobs["job"].stop() // the caller hangs up
	eventually(t, "the exit is in the pod's status", func() bool { return terminated(t, client) != nil })
	if len(f.Losses()) != 0 {
		t.Errorf("Losses = %v; want none", f.Losses())
	}
}

func TestCrashedContainerStartsAgain(t *testing.T) {
	f, client, _ := start(t, runningPod(nil))
	if err := f.Kill(types.NamespacedName{Namespace: "voice", Name: "agent"}); err != nil {
		t.Fatal(err)
	}
	var end *corev1.ContainerStateTerminated // it is visible for a second
	eventually(t, "the exit is in the pod's status", func() bool { end = terminated(t, client); return end != nil })
	if end.ExitCode != exitKilled {
		t.Errorf("exit code %d; want %d", end.ExitCode, exitKilled)
	}
	eventually(t, "the container runs again", func() bool { return terminated(t, client) == nil && len(f.Agents()) == 1 })
}

func TestWorkerOff(t *testing.T) {
	_, _, url := start(t, runningPod(map[string]string{WorkerAnnotation: "off"}))
	client := http.Client{Timeout: time.Second}
	if answer, err := client.Get(url + "/worker"); err == nil {
		_ = answer.Body.Close()
		t.Error("GET /worker is answered although the pod has no worker endpoint")
	}
}

// annotate sets annotations of the pod; an empty value removes one.
func annotate(t *testing.T, client kubernetes.Interface, annotations map[string]string) {
	t.Helper()
	pod, err := client.CoreV1().Pods("voice").Get(t.Context(), "agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	for name, value := range annotations {
		if pod.Annotations[name] = value; value == "" {
			delete(pod.Annotations, name)
		}
	}
	if _, err := client.CoreV1().Pods("voice").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

const drainMark = "drain 2026-01-02T15:04:05Z"

func TestDrainingMarkIsHeeded(t *testing.T) {
	f, client, _ := start(t, runningPod(nil))
	busy(t, f)
	annotate(t, client, map[string]string{DrainingAnnotation: drainMark})
	eventually(t, "the worker takes no new job", func() bool { return f.Agents()[0].Closed })
	if got := f.Agents()[0]; got.ActiveJobs != 1 || got.Draining {
		t.Errorf("agent of a marked pod = %+v; want its job to go on, and no SIGTERM", got)
	}
	if terminated(t, client) != nil {
		t.Error("the process exited for the mark")
	}
}

func TestMarkOutlivesTheProcess(t *testing.T) {
	f, _, _ := start(t, runningPod(map[string]string{DrainingAnnotation: drainMark}))
	eventually(t, "a process that starts under the mark takes no job", func() bool { return f.Agents()[0].Closed })
}

func TestDeafAgentIgnoresTheMark(t *testing.T) {
	f, client, _ := start(t, runningPod(map[string]string{DeafAnnotation: "true"}))
	annotate(t, client, map[string]string{DrainingAnnotation: drainMark})
	ends := time.Now().Add(3 * noticeDelay)
	eventually(t, "the delay has passed thrice", func() bool { return time.Now().After(ends) })
	if f.Agents()[0].Closed {
		t.Error("a deaf agent obeys the mark")
	}
}

func TestWorkerHangs(t *testing.T) {
	_, client, url := start(t, runningPod(nil))
	asked := http.Client{Timeout: 200 * time.Millisecond}
	answers := func() bool {
		answer, err := asked.Get(url + "/worker")
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil
	}
	eventually(t, "GET /worker answers", answers)
	annotate(t, client, map[string]string{WorkerAnnotation: "hang"})
	eventually(t, "GET /worker hangs", func() bool { return !answers() })
	annotate(t, client, map[string]string{WorkerAnnotation: ""})
	eventually(t, "GET /worker answers again", answers)
}

func TestMaxJobsOfAPod(t *testing.T) {
	f, _, _ := start(t, runningPod(map[string]string{MaxJobsAnnotation: "1"}))
	busy(t, f)
	f.mu.Lock()
	w := f.processes["uid-1"].worker
	f.mu.Unlock()
	if got := w.status().GetUpdateWorker().GetStatus(); got != livekit.WorkerStatus_WS_FULL {
		t.Errorf("status with one job of one = %v; want FULL", got)
	}
	if _, err := parseMaxJobs("none", 10); err == nil {
		t.Error(`"none" jobs are no mistake`)
	}
}

func TestNodeIsUnwellWithoutLiveKit(t *testing.T) {
	for dialect, want := range map[Dialect]string{Python: "OK", Node: "not connected to livekit\n"} {
		t.Run(string(dialect), func(t *testing.T) {
			_, _, url := start(t, runningPod(map[string]string{DialectAnnotation: string(dialect)}))
			var body string
			eventually(t, "GET / answers", func() bool { body = get(t, url+"/"); return body != "" })
			if body != want {
				t.Errorf("GET / = %q; want %q", body, want)
			}
		})
	}
}

// get returns the body of an answer, or nothing if there is none.
func get(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: deadline}
	answer, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestConfigReportsEveryNeed(t *testing.T) {
	_, err := New(Config{MaxJobs: -1})
	if err == nil {
		t.Fatal("New of an empty Config gives no error")
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 4 {
		t.Errorf("New = %v; want four needs", err)
	}
}
