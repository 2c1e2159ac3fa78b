// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const exitKilled = 137

// process simulates the main container of one pod: an HTTP server and a worker, from start to exit.
type process struct {
	pod       *corev1.Pod // as it was when the process started
	container string
	restarts  int32
	dialect   Dialect
	worker    *worker
	gate      *sidecar // nil without one
	losses    *losses
	log       *slog.Logger
	port      int
	// exited is called at the end of run, unless the fleet stops.
	exited func(context.Context, *process, exit)

	term      chan struct{} // closed at SIGTERM
	sigterm   func()
	deadlines chan time.Time // ends of the grace period, the soonest last
	killed    chan struct{}
	hangs     atomic.Bool // GET /worker gets no answer
	marked    atomic.Bool // the pod is marked draining, and its gate's file says so
	notice    func()      // runs once, when the pod is marked draining

	mu       sync.Mutex
	cause    Cause         // of a kill
	grace    time.Duration // the shortest that was requested
	graceEnd time.Time     // zero before SIGTERM
}

// exit is how a process ended. A killed process has a cause.
type exit struct {
	code  int32
	cause Cause
}

func newProcess(pod *corev1.Pod, cfg Config, gate *sidecar, lost *losses) (*process, error) {
	b, err := behaviourOf(pod.Annotations, cfg)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	b.pool.dice = newDice(cfg.Seed, pod.UID)
	status, _ := mainStatus(pod)
	log := cfg.Log.With("pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName)
	p := &process{
		pod: pod, container: status.Name, restarts: status.RestartCount, dialect: b.dialect, gate: gate,
		losses: lost, log: log, port: cfg.Port,
		term: make(chan struct{}), deadlines: make(chan time.Time, 1), killed: make(chan struct{}),
	}
	p.sigterm = sync.OnceFunc(func() { close(p.term) })
	name := cfg.AgentName
	if v, ok := pod.Annotations[AgentNameAnnotation]; ok {
		name = v
	}
	attributes := map[string]string{PodAttribute: string(pod.UID)}
	if pod.Annotations[UnattributedAnnotation] == "true" || gate != nil { // the gate adds the attribute itself
		attributes = nil
	}
	p.worker = (&worker{
		agentName: name, attributes: attributes, dialect: b.dialect, maxJobs: b.maxJobs,
		speaks:  pod.Annotations[SpeaksAnnotation] == "true",
		project: func() (Project, bool) { return cfg.LiveKit(pod) },
		answers: b.answers, shutdown: b.shutdown, dice: b.pool.dice,
		log: log, sdkLog: sdkLogger(log),
		onLaunch: p.launched, onEnd: p.ended, joins: lost.joins,
	}).init()
	if gate != nil {
		p.worker.via = gate.agentURL
	}
	if b.timed {
		p.worker.pool = newPool(b.dialect, b.pool, p.worker.spare)
	}
	p.notice = sync.OnceFunc(func() {
		switch {
		case gate != nil:
			time.AfterFunc(noticeDelay, func() { p.marked.Store(true) })
		case pod.Annotations[DeafAnnotation] != "true":
			time.AfterFunc(noticeDelay, p.worker.closeIntake)
		}
	})
	return p, nil
}

// behaviour holds what a pod's annotations set for its process.
type behaviour struct {
	dialect           Dialect
	maxJobs           int
	answers, shutdown span
	timed             bool // with the timing of its SDK
	pool              poolSettings
}

// behaviourOf reports every mistake of the annotations at once.
func behaviourOf(annotations map[string]string, cfg Config) (behaviour, error) {
	var errs []error
	dialect, err := parseDialect(annotations[DialectAnnotation])
	errs = append(errs, err)
	maxJobs, err := parseMaxJobs(annotations[MaxJobsAnnotation], cfg.MaxJobs)
	errs = append(errs, err)
	seconds := func(annotation string, otherwise time.Duration) span {
		value, ok := annotations[annotation]
		if !ok {
			return span{otherwise, otherwise}
		}
		s, err := parseSpan(annotation, value)
		errs = append(errs, err)
		return s
	}
	number := func(annotation string, otherwise, most float64) float64 {
		value, ok := annotations[annotation]
		if !ok {
			return otherwise
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || n < 0 || n > most {
			errs = append(errs, fmt.Errorf("annotation %s is %q; use a number from 0 to %g", annotation, value, most))
		}
		return n
	}
	b := behaviour{
		dialect: dialect, maxJobs: maxJobs,
		answers: seconds(AnswerSecondsAnnotation, 0), shutdown: seconds(ShutdownSecondsAnnotation, 0),
		timed: annotations[ProcessSecondsAnnotation] != "",
		pool: poolSettings{
			takes: seconds(ProcessSecondsAnnotation, 0), timeout: seconds(InitializeTimeoutAnnotation, initializeTimeout).least,
			idle: int(number(IdleProcessesAnnotation, idleProcesses, 100)), failure: number(LaunchFailureAnnotation, 0, 1),
		},
	}
	return b, errors.Join(errs...)
}

// parseMaxJobs parses the value of MaxJobsAnnotation.
func parseMaxJobs(value string, otherwise int) (int, error) {
	if value == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("annotation %s is %q; use 1 or more", MaxJobsAnnotation, value)
	}
	return n, nil
}

// read takes over the pod's current annotations for its process.
func (p *process) read(pod *corev1.Pod) {
	p.hangs.Store(pod.Annotations[WorkerAnnotation] == "hang")
	if p.gate != nil {
		p.gate.annotate(pod.Annotations)
	}
	if pod.Annotations[DrainingAnnotation] != "" {
		p.notice()
	}
}

// run runs the process until it exits. Ending ctx stops the fleet: everything ends, and no status is written.
func (p *process) run(ctx context.Context) {
	if p.gate != nil {
		if err := p.gate.started(ctx); err != nil {
			p.log.Error("The gate of the process has not started", "err", err)
		}
		p.gate.agent.Store(p)
		defer p.gate.agent.CompareAndSwap(p, nil)
	}
	stopServing, err := p.serve()
	if err != nil {
		p.log.Error("Process does not answer HTTP", "err", err)
	}
	workerCtx, stopWorker := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { p.worker.run(workerCtx) })
	p.log.Info("Process started", "dialect", p.dialect)

	end := p.await(ctx)
	stopWorker()
	stopServing()
	done.Wait()
	p.log.Info("Process ended", "code", end.code, "cause", end.cause)
	if ctx.Err() == nil {
		p.exited(ctx, p, end)
	}
}

// await returns when the process exits: after a drain, by a kill, or with the fleet.
func (p *process) await(ctx context.Context) exit {
	term, drained := p.term, (<-chan struct{})(nil)
	gaveUp := p.worker.gaveUp
	grace := time.NewTimer(time.Hour)
	grace.Stop()
	defer grace.Stop()
	for {
		select {
		case <-ctx.Done():
			p.kill(CauseStopped)
		case <-p.killed:
			p.mu.Lock()
			defer p.mu.Unlock()
			return exit{code: exitKilled, cause: p.cause}
		case <-term:
			term, drained = nil, p.worker.drained
			p.log.Info("Process drains", "jobs", p.worker.state().info.ActiveJobs)
			p.worker.drain()
		case <-gaveUp:
			gaveUp = nil
			if p.dialect == Node { // its run ends with process.exit(1)
				p.kill(CauseCrash)
				continue
			}
			drained = p.worker.drained // Python's run ends with a drain
			p.worker.drain()
		case deadline := <-p.deadlines:
			grace.Reset(time.Until(deadline))
		case <-grace.C:
			p.kill(CauseGrace)
		case <-drained:
			return exit{code: p.dialect.exitCode()}
		}
	}
}

// terminate is the kubelet's SIGTERM, followed by SIGKILL after the grace period. As with a kubelet, the period begins
// when the fleet hears of it, by the node's clock, and only a shorter one changes it.
func (p *process) terminate(grace time.Duration) {
	end := time.Now().Add(grace)
	p.mu.Lock()
	sooner := p.graceEnd.IsZero() || grace < p.grace && end.Before(p.graceEnd)
	if sooner {
		p.grace, p.graceEnd = grace, end
	}
	p.mu.Unlock()
	if !sooner {
		return
	}
	select {
	case <-p.deadlines: // outdated
	default:
	}
	p.deadlines <- end
	p.sigterm()
}

// pastGrace reports whether the process has used its whole grace period.
func (p *process) pastGrace(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.graceEnd.IsZero() && !now.Before(p.graceEnd)
}

// wasKilled reports whether the process got SIGKILL.
func (p *process) wasKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause != ""
}

// terminating reports whether the process got SIGTERM.
func (p *process) terminating() bool {
	select {
	case <-p.term:
		return true
	default:
		return false
	}
}

// kill is SIGKILL: every call of the process is lost, with this cause. Only the first kill counts.
func (p *process) kill(cause Cause) {
	p.mu.Lock()
	if p.cause != "" {
		p.mu.Unlock()
		return
	}
	p.cause = cause
	p.mu.Unlock()
	for _, j := range p.worker.kill() {
		p.lose(j, cause, "")
	}
	close(p.killed)
}

func (p *process) launched(j *job) {
	p.losses.hold(j.project, j.room, p.holder())
	p.log.Debug("Job launched", "job", j.id, "room", j.room)
}

func (p *process) ended(j *job, out outcome) {
	p.log.Debug("Job ended", "job", j.id, "room", j.room, "after", time.Since(j.started), "detail", out.detail, "err", out.err)
	if out.lost != "" {
		p.lose(j, out.lost, out.detail)
	}
}

func (p *process) lose(j *job, cause Cause, detail string) {
	h := p.holder()
	p.log.Info("Call lost", "room", j.room, "cause", cause, "detail", detail)
	p.losses.add(Loss{
		Room: j.room, Agent: j.identity, Pod: h.pod, UID: h.uid, Node: h.node,
		Cause: cause, Detail: detail, At: time.Now(), project: j.project,
	})
}

func (p *process) holder() holder {
	return holder{pod: types.NamespacedName{Namespace: p.pod.Namespace, Name: p.pod.Name}, uid: p.pod.UID, node: p.pod.Spec.NodeName}
}

// serve answers GET /worker and GET / on the pod's IP.
func (p *process) serve() (stop func(), err error) {
	if p.pod.Annotations[WorkerAnnotation] == "off" {
		return func() {}, nil
	}
	address := net.JoinHostPort(p.pod.Status.PodIP, strconv.Itoa(p.port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return func() {}, fmt.Errorf("cannot listen on %s for pod %s/%s: %w; give every pod a loopback address of its own", address, p.pod.Namespace, p.pod.Name, err)
	}
	server := &http.Server{Handler: p.handler(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(demoted{p.log.Handler()}, slog.LevelDebug)}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) })
	return func() { _ = server.Close(); done.Wait() }, nil
}

// handler answers in the process's dialect.
func (p *process) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /worker", func(rw http.ResponseWriter, r *http.Request) {
		if p.hangs.Load() {
			<-r.Context().Done()
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(p.dialect.encode(p.worker.state().info))
	})
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		switch s := p.worker.state(); {
		case p.dialect == Node && !s.registered:
			http.Error(rw, "not connected to livekit", http.StatusServiceUnavailable)
		case p.dialect == Python && s.failed: // not while it waits for its processes, nor while it tries LiveKit again
			http.Error(rw, "failed to connect to livekit", http.StatusServiceUnavailable)
		default:
			_, _ = rw.Write([]byte("OK"))
		}
	})
	return mux
}
