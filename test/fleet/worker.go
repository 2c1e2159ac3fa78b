// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	protologger "github.com/livekit/protocol/logger"
	"google.golang.org/protobuf/proto"
)

const (
	dialTimeout    = 5 * time.Second
	writeTimeout   = 5 * time.Second
	silenceLimit   = 35 * time.Second // three of LiveKit's pings
	statusInterval = 2500 * time.Millisecond
	pingInterval   = 10 * time.Second
	assignTimeout  = 7500 * time.Millisecond
	backoffFirst   = 250 * time.Millisecond
	backoffMost    = 5 * time.Second
)

// worker speaks LiveKit's worker protocol for one process: it registers, answers offers and runs the jobs it gets.
// Losing its websocket costs it nothing but new offers: jobs go on, and it registers again.
type worker struct {
	agentName  string
	attributes map[string]string
	dialect    Dialect
	maxJobs    int
	project    func() (Project, bool)
	log        *slog.Logger
	sdkLog     protologger.Logger
	// onLaunch and onEnd are told of every job. onEnd is called after the agent left its room.
	onLaunch func(*job)
	onEnd    func(*job, outcome)

	jobsRunning sync.WaitGroup

	mu       sync.Mutex
	conn     *websocket.Conn // nil while not registered
	jobs     map[string]*job
	reserved map[string]*time.Timer // offers accepted and not assigned yet
	closed   bool                   // takes no new job, and works on
	draining bool
	dead     bool
	drained  chan struct{}
	changed  chan struct{}
}

func (w *worker) init() *worker {
	w.jobs = map[string]*job{}
	w.reserved = map[string]*time.Timer{}
	w.drained = make(chan struct{})
	w.changed = make(chan struct{}, 1)
	return w
}

// run keeps the worker registered until ctx ends, then waits for its jobs to be gone. It ends no job.
func (w *worker) run(ctx context.Context) {
	wait := backoffFirst
	for ctx.Err() == nil {
		started := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(started) > backoffMost {
			wait = backoffFirst
		}
		w.log.Debug("Worker is not registered", "err", err, "retry", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, backoffMost)
	}
	w.jobsRunning.Wait()
}

// session is one websocket from dial to loss.
func (w *worker) session(ctx context.Context) error {
	project, ok := w.project()
	if !ok {
		return fmt.Errorf("the pod has no LiveKit project yet; make Config.LiveKit know it")
	}
	conn, err := dialAgent(ctx, project)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	out := &wire{conn: conn}
	var aside sync.WaitGroup
	defer func() { cancel(); aside.Wait() }()
	aside.Go(func() { // the only way to interrupt a read
		<-ctx.Done()
		_ = conn.Close()
	})

	extend := func() { _ = conn.SetReadDeadline(time.Now().Add(silenceLimit)) }
	answerPing := conn.PingHandler()
	conn.SetPingHandler(func(data string) error { extend(); return answerPing(data) })
	if err := out.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{
		Type: livekit.JobType_JT_ROOM, AgentName: w.agentName, Version: sdkVersion, PingInterval: uint32(pingInterval / time.Second),
	}}}); err != nil {
		return err
	}
	defer w.unregister()
	for {
		extend()
		_, body, err := conn.ReadMessage()
		if err != nil {
			return fmt.Errorf("worker websocket of %s: %w", project.URL, err)
		}
		msg := &livekit.ServerMessage{}
		if err := proto.Unmarshal(body, msg); err != nil {
			return fmt.Errorf("worker websocket of %s sent no ServerMessage: %w", project.URL, err)
		}
		switch m := msg.Message.(type) {
		case *livekit.ServerMessage_Register:
			w.log.Debug("Worker is registered", "worker", m.Register.GetWorkerId())
			w.register(conn)
			aside.Go(func() { w.keepPosted(ctx, out) })
		case *livekit.ServerMessage_Availability:
			if err := out.send(w.answer(m.Availability)); err != nil {
				return err
			}
		case *livekit.ServerMessage_Assignment:
			w.launch(project, m.Assignment, out) //nolint:contextcheck // a job ends by itself or by kill, not with its websocket
		case *livekit.ServerMessage_Termination:
			w.end(m.Termination.GetJobId())
		}
	}
}

// dialAgent opens the websocket of a worker.
func dialAgent(ctx context.Context, project Project) (*websocket.Conn, error) {
	token, err := auth.NewAccessToken(project.APIKey, project.APISecret).
		SetVideoGrant(&auth.VideoGrant{Agent: true}).SetValidFor(time.Hour).ToJWT()
	if err != nil {
		return nil, fmt.Errorf("cannot sign a worker token for %s: %w; check the project's key and secret", project.URL, err)
	}
	url := strings.TrimSuffix(project.URL, "/") + "/agent"
	if rest, ok := strings.CutPrefix(url, "http"); ok {
		url = "ws" + rest // https becomes wss
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, answer, err := websocket.DefaultDialer.DialContext(ctx, url, http.Header{"Authorization": {"Bearer " + token}}) //nolint:bodyclose // the dialer closes it
	if err != nil {
		if answer != nil {
			return nil, fmt.Errorf("cannot open worker websocket %s: %w (%s); check the project's key and secret", url, err, answer.Status)
		}
		return nil, fmt.Errorf("cannot open worker websocket %s: %w; check that LiveKit listens there", url, err)
	}
	return conn, nil
}

// wire writes messages one at a time.
type wire struct {
	mu   sync.Mutex
	conn *websocket.Conn
}

func (c *wire) send(msg *livekit.WorkerMessage) error {
	body, err := proto.Marshal(msg)
	if err != nil {
		return fmt.Errorf("cannot encode a worker message: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := c.conn.WriteMessage(websocket.BinaryMessage, body); err != nil {
		return fmt.Errorf("cannot write to the worker websocket: %w", err)
	}
	return nil
}

// keepPosted tells LiveKit the worker's load: on every change, and every 2.5 s as LiveKit Agents does.
func (w *worker) keepPosted(ctx context.Context, out *wire) {
	status, ping := time.NewTicker(statusInterval), time.NewTicker(pingInterval)
	defer status.Stop()
	defer ping.Stop()
	for {
		if err := out.send(w.status()); err != nil {
			return // the reader sees the same loss
		}
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		case <-status.C:
		case now := <-ping.C:
			_ = out.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Ping{Ping: &livekit.WorkerPing{Timestamp: now.UnixMilli()}}})
		}
	}
}

// status is the worker's load and whether it takes jobs.
func (w *worker) status() *livekit.WorkerMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := livekit.WorkerStatus_WS_AVAILABLE
	if w.fullLocked() {
		status = livekit.WorkerStatus_WS_FULL
	}
	return &livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: &livekit.UpdateWorkerStatus{
		Status: &status, Load: w.loadLocked(), JobCount: uint32(len(w.jobs)),
	}}}
}

func (w *worker) loadLocked() float32 {
	return float32(len(w.jobs)+len(w.reserved)) / float32(w.maxJobs)
}

func (w *worker) fullLocked() bool {
	return w.draining || w.closed || len(w.jobs)+len(w.reserved) >= w.maxJobs
}

// answer takes an offer unless the worker is full, and keeps room for it until it is assigned.
func (w *worker) answer(offer *livekit.AvailabilityRequest) *livekit.WorkerMessage {
	id := offer.GetJob().GetId()
	response := &livekit.AvailabilityResponse{JobId: id}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fullLocked() {
		response.Available = true
		response.ParticipantIdentity = agentIdentity(id)
		response.ParticipantAttributes = w.attributes
		w.reserved[id] = time.AfterFunc(assignTimeout, func() { w.release(id) })
		w.changedLocked()
	}
	return &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: response}}
}

func agentIdentity(jobID string) string { return "agent-" + jobID }

// release gives up an accepted offer that was never assigned.
func (w *worker) release(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.reserved, id)
	w.changedLocked()
}

// launch starts an assigned job.
func (w *worker) launch(project Project, assignment *livekit.JobAssignment, out *wire) {
	id := assignment.GetJob().GetId()
	j := newJob(assignment, project, agentIdentity(id), w.sdkLog)
	w.mu.Lock()
	if timer, ok := w.reserved[id]; ok {
		timer.Stop()
		delete(w.reserved, id)
	}
	if w.dead || w.jobs[id] != nil {
		w.mu.Unlock()
		return
	}
	w.jobs[id] = j
	w.changedLocked()
	w.jobsRunning.Add(1)
	w.mu.Unlock()

	w.onLaunch(j)
	w.report(out, id, livekit.JobStatus_JS_RUNNING, nil)
	go func() {
		defer w.jobsRunning.Done()
		result := j.run(context.Background()) // ends by itself or by kill
		status := livekit.JobStatus_JS_SUCCESS
		if result.err != nil {
			status = livekit.JobStatus_JS_FAILED
		}
		w.onEnd(j, result)
		w.mu.Lock()
		delete(w.jobs, id)
		w.changedLocked()
		w.mu.Unlock()
		w.report(out, id, status, result.err)
	}()
}

// report tells LiveKit how a job goes, on the websocket the job came from; if that is lost LiveKit forgot the job.
func (w *worker) report(out *wire, id string, status livekit.JobStatus, cause error) {
	if !w.dialect.reportsJobs() {
		return
	}
	update := &livekit.UpdateJobStatus{JobId: id, Status: status}
	if cause != nil {
		update.Error = cause.Error()
	}
	_ = out.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: update}})
}

// end ends a job because LiveKit says so.
func (w *worker) end(id string) {
	w.mu.Lock()
	j := w.jobs[id]
	w.mu.Unlock()
	if j != nil {
		j.terminate()
	}
}

// closeIntake takes nothing new from now on. The worker stays.
func (w *worker) closeIntake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changedLocked()
}

// drain takes nothing new from now on. The channel drained closes when the last job has ended.
func (w *worker) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
	w.changedLocked()
}

// kill ends every job as SIGKILL does and gives those that were going on.
func (w *worker) kill() []*job {
	w.mu.Lock()
	w.dead, w.draining = true, true
	jobs := make([]*job, 0, len(w.jobs))
	for _, j := range w.jobs {
		jobs = append(jobs, j)
	}
	w.mu.Unlock()
	var on []*job
	for _, j := range jobs {
		if j.kill() {
			on = append(on, j)
		}
	}
	return on
}

func (w *worker) register(conn *websocket.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = conn
}

func (w *worker) unregister() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn = nil
}

// changedLocked has the load told to LiveKit, and notices the end of a drain.
func (w *worker) changedLocked() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
	if !w.draining || len(w.jobs)+len(w.reserved) > 0 {
		return
	}
	select {
	case <-w.drained:
	default:
		close(w.drained)
	}
}

// workerState is a snapshot of a worker.
type workerState struct {
	info                 workerInfo
	rooms                []string
	registered, draining bool
	closed               bool
}

func (w *worker) state() workerState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := workerState{
		info:       workerInfo{AgentName: w.agentName, ActiveJobs: len(w.jobs), Load: w.loadLocked()},
		registered: w.conn != nil, draining: w.draining, closed: w.closed,
	}
	for _, j := range w.jobs {
		s.rooms = append(s.rooms, j.room)
	}
	return s
}
