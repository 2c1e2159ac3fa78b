// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	gatePortAnnotation = "callguard.dev/gate-port"
	defaultGatePort    = 8089
	agentPort          = 7880 // the port in the agent's LIVEKIT_URL

	// gateStart is how long a startup probe waits for a gate.
	gateStart = 30 * time.Second
	gatePace  = 50 * time.Millisecond
	askWithin = 2 * time.Second
)

// sidecar is the call-gate of a pod, with what its node does for it: it writes the files of its volumes, and restarts the
// process if it exits. A pod's containers share one network address. Here that is the pod's own loopback address, except
// for GET /worker of the agent, which the gate requests at 127.0.0.1.
type sidecar struct {
	log        *slog.Logger
	volume     string // the downwardAPI volume
	statusURL  string // where others ask
	ownURL     string // where the gate answers: statusURL, unless something is before it
	agentURL   string
	start      func() (GateProcess, error)
	agent      atomic.Pointer[process] // the agent that answers GET /worker; nil while none runs
	stopWorker func()
	stopBefore func() // nil without Config.Before
	work       sync.WaitGroup

	mu       sync.Mutex
	files    int
	written  string // annotations as in the file
	process  GateProcess
	restarts int32
	over     chan struct{} // closed when the process is not restarted any more
}

// gated reports whether the fleet gives a pod a gate.
func (f *Fleet) gated(pod *corev1.Pod) bool {
	return f.cfg.Gate != nil && pod.Annotations[GateAnnotation] != ""
}

// newSidecar starts the gate of a pod. It may not answer yet.
func (f *Fleet) newSidecar(pod *corev1.Pod) (*sidecar, error) {
	project, ok := f.cfg.LiveKit(pod)
	if !ok {
		return nil, fmt.Errorf("pod %s/%s has no LiveKit project; make Config.LiveKit know it before the pod runs", pod.Namespace, pod.Name)
	}
	port := defaultGatePort
	if value := pod.Annotations[gatePortAnnotation]; value != "" {
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, fmt.Errorf("annotation %s of pod %s/%s is %q; use a port such as %d", gatePortAnnotation, pod.Namespace, pod.Name, value, defaultGatePort)
		}
		port = n
	}
	home := filepath.Join(f.cfg.Volumes, string(pod.UID))
	s := &sidecar{
		log: f.cfg.Log.With("gate", pod.Namespace+"/"+pod.Name), volume: filepath.Join(home, "podinfo"), over: make(chan struct{}),
	}
	journal := filepath.Join(home, "journal")
	// Of a node that had no power the journal is left. What the kubelet writes from the pod it writes anew.
	if err := errors.Join(os.RemoveAll(s.volume), os.MkdirAll(s.volume, 0o755), os.MkdirAll(journal, 0o755)); err != nil {
		return nil, fmt.Errorf("cannot make the volumes of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err := s.write(pod.Annotations); err != nil {
		return nil, err
	}
	workers, err := s.serveWorker()
	if err != nil {
		return nil, err
	}
	agent, status := net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(agentPort)), net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(port))
	s.agentURL, s.statusURL = "ws://"+agent, "http://"+status
	if f.cfg.Before != nil {
		others := status
		status = net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(port+1))
		if s.stopBefore, err = f.cfg.Before(others, status); err != nil {
			s.stopWorker()
			return nil, err
		}
	}
	s.ownURL = "http://" + status
	args := append([]string{
		"--bind-address=" + agent, "--status-address=" + status, "--worker-ports=" + strconv.Itoa(workers),
		"--order-file=" + filepath.Join(s.volume, "annotations"), "--journal=" + journal,
	}, strings.Fields(pod.Annotations[GateArgsAnnotation])...)
	env := []string{
		"LIVEKIT_URL=" + cmp.Or(project.Via, project.URL), "LIVEKIT_API_KEY=" + project.APIKey, "LIVEKIT_API_SECRET=" + project.APISecret, "POD_UID=" + string(pod.UID),
	}
	s.start = func() (GateProcess, error) { return f.cfg.Gate(pod, pod.Annotations[GateAnnotation], args, env) }
	if s.process, err = s.start(); err != nil {
		s.stop()
		return nil, fmt.Errorf("cannot start the gate of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	s.work.Go(s.keep)
	return s, nil
}

// keep restarts the process whenever it exits, as a kubelet does.
func (s *sidecar) keep() {
	for {
		s.mu.Lock()
		p := s.process
		s.mu.Unlock()
		select {
		case <-s.over:
			return
		case <-p.Done():
		}
		select {
		case <-s.over:
			return
		case <-time.After(restartDelay):
		}
		s.mu.Lock()
		select {
		case <-s.over:
		default:
			next, err := s.start()
			if err != nil {
				s.log.Error("The gate is not started again", "err", err)
				s.mu.Unlock()
				return
			}
			s.process = next
			s.restarts++
		}
		s.mu.Unlock()
	}
}

// kill crashes the gate, which is then restarted.
func (s *sidecar) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.Kill()
}

// pause stops the gate's process until resume.
func (s *sidecar) pause() (resume func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.process
	if err := p.Pause(); err != nil {
		return nil, err
	}
	return func() error {
		err := p.Continue()
		select {
		case <-p.Done():
			return nil
		default:
			return err
		}
	}, nil
}

// end ends the gate for good: when the pod's agent has exited, or, at once, with the pod or its node.
func (s *sidecar) end(atOnce bool) {
	s.mu.Lock()
	select {
	case <-s.over:
	default:
		close(s.over)
	}
	stop := s.process.Stop
	if atOnce {
		stop = s.process.Kill
	}
	err := stop()
	s.mu.Unlock()
	if err != nil {
		s.log.Error("The gate did not end well", "err", err)
	}
	s.work.Wait()
	s.stop()
}

// stop ends what listens for the gate.
func (s *sidecar) stop() {
	s.stopWorker()
	if s.stopBefore != nil {
		s.stopBefore()
	}
}

// direct is the URL of a page of the gate for its own node, which nothing is between.
func (s *sidecar) direct(url string) string {
	if rest, ok := strings.CutPrefix(url, s.statusURL); ok {
		return s.ownURL + rest
	}
	return url
}

// runs reports whether there is a process.
func (s *sidecar) runs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.process.Done():
		return false
	default:
		return true
	}
}

// started waits until the gate answers, as its startup probe does before the node starts the agent.
func (s *sidecar) started(ctx context.Context) error {
	end := time.Now().Add(gateStart)
	for {
		code, err := ask(ctx, s.ownURL+"/healthz")
		switch {
		case err == nil && code == http.StatusOK:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return fmt.Errorf("the gate does not answer at %s within %s: %w", s.ownURL, gateStart, err)
		}
		wait(ctx, gatePace)
	}
}

// ask returns the status code of an answer.
func ask(ctx context.Context, url string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := probes.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// probes is the client of all probes. Like a kubelet's, it keeps no connections.
var probes = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} //nolint:gochecknoglobals // never changed

// annotate writes annotations to the file of the pod, as late as a kubelet would.
func (s *sidecar) annotate(annotations map[string]string) {
	time.AfterFunc(noticeDelay, func() {
		if err := s.write(annotations); err != nil {
			s.log.Error("The annotations are not in the pod's file", "err", err)
		}
	})
}

// write writes annotations as a kubelet does: into a folder with a new name, to which a link is then switched atomically.
// An older state of the pod never replaces a newer one, so the mark never disappears.
func (s *sidecar) write(annotations map[string]string) error {
	var lines []string
	for k, v := range annotations {
		lines = append(lines, fmt.Sprintf("%s=%q\n", k, v))
	}
	slices.Sort(lines)
	text := strings.Join(lines, "")
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == s.written || strings.Contains(s.written, DrainingAnnotation+"=") && annotations[DrainingAnnotation] == "" {
		return nil
	}
	s.files++
	dir := fmt.Sprintf("..2026_01_02_15_04_05.%d", s.files)
	link := filepath.Join(s.volume, "..data")
	err := errors.Join(
		os.Mkdir(filepath.Join(s.volume, dir), 0o755),
		os.WriteFile(filepath.Join(s.volume, dir, "annotations"), []byte(text), 0o600),
		os.Symlink(dir, link+"_tmp"),
		os.Rename(link+"_tmp", link),
	)
	if s.files == 1 {
		err = errors.Join(err, os.Symlink(filepath.Join("..data", "annotations"), filepath.Join(s.volume, "annotations")))
	}
	if err != nil {
		return fmt.Errorf("cannot write the pod's annotations: %w", err)
	}
	s.written = text
	return nil
}

// serveWorker answers GET /worker at a port of 127.0.0.1 as the agent does, and closes the connection while there is none.
func (s *sidecar) serveWorker() (port int, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("cannot listen for the gate's GET /worker: %w", err)
	}
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(demoted{s.log.Handler()}, slog.LevelDebug),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if p := s.agent.Load(); p != nil {
				p.handler().ServeHTTP(rw, r)
				return
			}
			panic(http.ErrAbortHandler)
		}),
	}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) })
	s.stopWorker = func() { _ = server.Close(); done.Wait() }
	return listener.Addr().(*net.TCPAddr).Port, nil
}
