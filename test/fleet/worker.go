// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
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
	dialTimeout  = 5 * time.Second
	writeTimeout = 5 * time.Second
	// statusInterval is UPDATE_STATUS_INTERVAL of Python's worker.py, UPDATE_LOAD_INTERVAL of Node's worker.ts.
	statusInterval = 2500 * time.Millisecond
	// assignTimeout is ASSIGNMENT_TIMEOUT of both.
	assignTimeout = 7500 * time.Millisecond
	// heartbeat is Python's HEARTBEAT_INTERVAL: aiohttp pings after this time of silence, and closes the websocket if no
	// pong arrives within half of it. Node does not ping.
	heartbeat = 30 * time.Second
	// maxRetries, retryStep and retryMost are those of Python's _connection_task and Node's workerWS: the delay before a
	// retry grows by 2 s up to 10 s, and after 16 retries the worker gives up for good.
	maxRetries = 16
	retryStep  = 2 * time.Second
	retryMost  = 10 * time.Second
	// hotLoop keeps a worker whose websocket closes right after it opened from using a whole CPU. Python has no such pause.
	hotLoop = 10 * time.Millisecond
)

// worker speaks LiveKit's worker protocol for one process: it registers, answers offers and runs the jobs it gets. Losing
// its websocket costs it only new offers: jobs continue, and it registers again, until it gives up for good.
type worker struct {
	agentName  string
	attributes map[string]string
	dialect    Dialect
	maxJobs    int
	speaks     bool // its agents publish a track
	project    func() (Project, bool)
	via        string // address in the agent's LIVEKIT_URL, if not the project's own
	pool       pool   // nil: processes are always warm
	dice       *dice
	answers    span // how long an answer to an offer takes
	shutdown   span // how long a process works on after the call
	log        *slog.Logger
	sdkLog     protologger.Logger
	// onLaunch and onEnd are called for every job; onEnd after the agent has left its room.
	onLaunch func(*job)
	joins    func(agent string) (end func()) // told of an agent that tries to join its room
	onEnd    func(*job, outcome)

	jobsRunning sync.WaitGroup
	gaveUp      chan struct{} // closed when the worker never registers again

	mu       sync.Mutex
	life     context.Context // of run, for jobs that wait for a process
	out      *wire           // nil while not registered
	outbox   []*livekit.WorkerMessage
	jobs     map[string]*job
	waiting  map[string]*job        // assigned, and not launched yet
	reserved map[string]*time.Timer // offers accepted and not assigned yet
	closed   bool                   // takes no new job, and works on
	draining bool
	dead     bool
	drained  chan struct{}
	changed  chan struct{}
}

func (w *worker) init() *worker {
	w.jobs, w.waiting = map[string]*job{}, map[string]*job{}
	w.reserved = map[string]*time.Timer{}
	w.drained, w.gaveUp = make(chan struct{}), make(chan struct{})
	w.changed = make(chan struct{}, 1)
	return w
}

// run keeps the worker registered until ctx ends or it gives up, then waits until its jobs are gone. It ends no job.
func (w *worker) run(ctx context.Context) {
	w.mu.Lock()
	w.life = ctx
	w.mu.Unlock()
	defer w.jobsRunning.Wait()
	if w.pool != nil {
		w.jobsRunning.Go(func() { w.pool.run(ctx) })
		select {
		case <-ctx.Done():
			return
		case <-w.pool.warm():
		}
	}
	retries := 0
	for {
		opened, err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if opened {
			retries = 0
		}
		if retries >= maxRetries {
			w.log.Info("Worker has given up on LiveKit", "err", err)
			close(w.gaveUp)
			return
		}
		delay := min(time.Duration(retries)*retryStep, retryMost)
		retries++
		if w.dialect == Node { // Node counts before it multiplies
			delay = min(time.Duration(retries)*retryStep, retryMost)
		}
		w.log.Debug("Worker is not registered", "err", err, "retry", delay)
		if !wait(ctx, max(delay, hotLoop)) {
			return
		}
	}
}

// session is one websocket from dial to loss. It reports whether it opened.
func (w *worker) session(ctx context.Context) (opened bool, err error) {
	project, ok := w.project()
	if !ok {
		return false, fmt.Errorf("the pod has no LiveKit project yet; make Config.LiveKit know it")
	}
	there := project
	there.URL = cmp.Or(w.via, project.Via, project.URL)
	conn, err := dialAgent(ctx, there)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	out := &wire{conn: conn}
	var aside sync.WaitGroup
	defer func() { cancel(); aside.Wait() }()
	aside.Go(func() { // the only way to interrupt a read
		<-ctx.Done()
		_ = conn.Close()
	})

	heard := w.listen(conn, &aside, ctx.Done())
	if err := out.send(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Register{Register: &livekit.RegisterWorkerRequest{
		Type: livekit.JobType_JT_ROOM, AgentName: w.agentName, Version: sdkVersion,
	}}}); err != nil {
		return true, err
	}
	defer w.unregister()
	for {
		_, body, err := conn.ReadMessage()
		if err != nil {
			return true, fmt.Errorf("worker websocket of %s: %w", there.URL, err)
		}
		heard()
		msg := &livekit.ServerMessage{}
		if err := proto.Unmarshal(body, msg); err != nil {
			return true, fmt.Errorf("worker websocket of %s sent no ServerMessage: %w", there.URL, err)
		}
		switch m := msg.Message.(type) {
		case *livekit.ServerMessage_Register:
			w.log.Debug("Worker is registered", "worker", m.Register.GetWorkerId())
			for _, waiting := range w.register(out) {
				if err := out.send(waiting); err != nil {
					return true, err
				}
			}
			aside.Go(func() { w.keepPosted(ctx, out) })
		case *livekit.ServerMessage_Availability:
			after := w.dice.draw(w.answers)
			answer := w.answer(m.Availability, after)
			if after == 0 {
				w.post(answer)
			} else {
				time.AfterFunc(after, func() { w.post(answer) })
			}
		case *livekit.ServerMessage_Assignment:
			w.launch(project, m.Assignment) //nolint:contextcheck // a job ends by itself or by kill, not with its websocket
		case *livekit.ServerMessage_Termination:
			w.end(m.Termination.GetJobId())
		}
	}
}

// listen makes the websocket notice that LiveKit is silent, as far as the SDK does. The function it returns is called for
// every received frame.
func (w *worker) listen(conn *websocket.Conn, aside *sync.WaitGroup, done <-chan struct{}) (heard func()) {
	if w.dialect == Node {
		return func() {}
	}
	quiet := time.NewTimer(heartbeat)
	heard = func() {
		_ = conn.SetReadDeadline(time.Now().Add(heartbeat + heartbeat/2)) // fails only where the read does
		quiet.Reset(heartbeat)
	}
	heard()
	answer := conn.PingHandler()
	conn.SetPingHandler(func(data string) error { heard(); return answer(data) })
	conn.SetPongHandler(func(string) error { heard(); return nil })
	aside.Go(func() {
		defer quiet.Stop()
		for {
			select {
			case <-done:
				return
			case <-quiet.C:
				_ = conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)) // an error shows in the read
			}
		}
	})
	return heard
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

// keepPosted reports the worker's load to LiveKit every 2.5 s. A worker without the timing of its SDK also reports every
// change.
func (w *worker) keepPosted(ctx context.Context, out *wire) {
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	now := w.pool == nil || w.dialect == Python // Node's interval begins with a pause
	for {
		if now {
			if err := out.send(w.status()); err != nil {
				return // the reader notices the same loss
			}
		}
		now = true
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		case <-tick.C:
		}
	}
}

// post sends a message on the current websocket. Without one, Python keeps it (_queue_msg), and Node loses it.
func (w *worker) post(msg *livekit.WorkerMessage) {
	w.mu.Lock()
	out := w.out
	if out == nil && w.dialect == Python {
		w.outbox = append(w.outbox, msg)
	}
	w.mu.Unlock()
	if out != nil {
		_ = out.send(msg) // the reader notices the same loss
	}
}

// status is the worker's load and whether it accepts jobs. Only Python reports the number of its jobs.
func (w *worker) status() *livekit.WorkerMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := livekit.WorkerStatus_WS_AVAILABLE
	if w.fullLocked() {
		status = livekit.WorkerStatus_WS_FULL
	}
	update := &livekit.UpdateWorkerStatus{Status: &status, Load: w.loadLocked()}
	if w.dialect == Python {
		update.JobCount = uint32(len(w.jobs))
	}
	return &livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateWorker{UpdateWorker: update}}
}

// loadLocked is the result of the worker's load function: one that divides its jobs by the maximum, and returns full at
// once if the pod should accept none. Python's counts launched jobs only; accepted ones show in its status.
func (w *worker) loadLocked() float32 {
	switch {
	case w.closed:
		return 1
	case w.dialect == Python:
		return float32(len(w.jobs)) / float32(w.maxJobs)
	default:
		return float32(w.heldLocked()) / float32(w.maxJobs)
	}
}

// heldLocked counts the jobs from their acceptance on.
func (w *worker) heldLocked() int { return len(w.jobs) + len(w.waiting) + len(w.reserved) }

func (w *worker) fullLocked() bool {
	return w.draining || w.closed || w.heldLocked() >= w.maxJobs
}

// spare is how many more jobs the worker may accept: Python keeps as many processes warm.
func (w *worker) spare() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(w.maxJobs-len(w.jobs), 0)
}

// answer accepts an offer unless the worker is full, and reserves room for it until it is assigned. The answer should be
// sent after the returned time.
func (w *worker) answer(offer *livekit.AvailabilityRequest, after time.Duration) *livekit.WorkerMessage {
	id := offer.GetJob().GetId()
	response := &livekit.AvailabilityResponse{JobId: id}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fullLocked() {
		response.Available = true
		response.ParticipantIdentity = agentIdentity(id)
		response.ParticipantAttributes = w.attributes
		w.reserved[id] = time.AfterFunc(after+assignTimeout, func() { w.release(id) })
		w.changedLocked()
	}
	return &livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: response}}
}

func agentIdentity(jobID string) string { return "agent-" + jobID }

// release drops an accepted offer that was never assigned.
func (w *worker) release(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.reserved, id)
	w.changedLocked()
}

// launch takes an assigned job, and starts it when it has a process. If the assignment comes too late, Python does not
// know the job (_handle_assignment); Node has only logged that it is late.
func (w *worker) launch(project Project, assignment *livekit.JobAssignment) {
	id := assignment.GetJob().GetId()
	j := newJob(assignment, project, agentIdentity(id), w.sdkLog)
	j.speaks, j.joins = w.speaks, w.joins
	w.mu.Lock()
	defer w.mu.Unlock()
	timer, expected := w.reserved[id]
	if expected {
		timer.Stop()
		delete(w.reserved, id)
	}
	if w.dead || w.jobs[id] != nil || w.waiting[id] != nil || !expected && w.dialect == Python {
		w.changedLocked()
		return
	}
	if w.pool == nil {
		w.startLocked(j)
		return
	}
	w.waiting[id] = j
	life := w.life
	w.jobsRunning.Go(func() {
		err := w.pool.acquire(life)
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, id)
		if err == nil && !w.dead {
			w.startLocked(j) //nolint:contextcheck // a job ends by itself or by kill
			return
		}
		w.log.Info("A job was not launched", "job", id, "err", err)
		w.changedLocked()
	})
}

// startLocked starts a job that has a process.
func (w *worker) startLocked(j *job) {
	w.jobs[j.id] = j
	w.changedLocked()
	w.jobsRunning.Go(func() {
		w.onLaunch(j)
		w.report(j.id, livekit.JobStatus_JS_RUNNING, nil)
		result := j.run(context.Background()) // ends by itself or by kill
		status := livekit.JobStatus_JS_SUCCESS
		if result.err != nil {
			status = livekit.JobStatus_JS_FAILED
		}
		w.onEnd(j, result)
		if after := w.dice.draw(w.shutdown); after > 0 {
			select {
			case <-time.After(after):
			case <-j.killing:
			}
		}
		w.mu.Lock()
		delete(w.jobs, j.id)
		w.changedLocked()
		w.mu.Unlock()
		w.report(j.id, status, result.err)
	})
}

// report tells LiveKit that a job was launched, and that its process has ended.
func (w *worker) report(id string, status livekit.JobStatus, cause error) {
	if !w.dialect.reportsJobs() {
		return
	}
	update := &livekit.UpdateJobStatus{JobId: id, Status: status}
	if cause != nil {
		update.Error = cause.Error()
	}
	w.post(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_UpdateJob{UpdateJob: update}})
}

// end ends a job on LiveKit's request.
func (w *worker) end(id string) {
	w.mu.Lock()
	j := w.jobs[id]
	w.mu.Unlock()
	if j != nil {
		j.terminate()
	}
}

// closeIntake stops accepting jobs. The worker stays.
func (w *worker) closeIntake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changedLocked()
}

// drain stops accepting jobs. The channel drained is closed when the last job has ended.
func (w *worker) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
	w.tellLocked() // both SDKs report at once that they are full
	w.changedLocked()
}

// kill ends every job as SIGKILL does and returns those that were in progress.
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

// register records the websocket on which the worker is registered, and returns the first messages to LiveKit: Python's
// running jobs (_report_active_jobs), and what Python queued while it was away.
// running jobs (_report_active_jobs), and what Python had to say while it was away.
func (w *worker) register(out *wire) []*livekit.WorkerMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = out
	var first []*livekit.WorkerMessage
	if w.dialect == Python && len(w.jobs) > 0 {
		first = append(first, &livekit.WorkerMessage{Message: &livekit.WorkerMessage_MigrateJob{
			MigrateJob: &livekit.MigrateJobRequest{JobIds: slices.Sorted(maps.Keys(w.jobs))},
		}})
	}
	first = append(first, w.outbox...)
	w.outbox = nil
	return first
}

func (w *worker) unregister() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = nil
}

// changedLocked makes the load be reported to LiveKit, unless that has its own interval, and notices the end of a drain.
func (w *worker) changedLocked() {
	if w.pool == nil {
		w.tellLocked()
	}
	if !w.draining || w.heldLocked() > 0 {
		return
	}
	select {
	case <-w.drained:
	default:
		close(w.drained)
	}
}

// tellLocked makes the load be reported to LiveKit now.
func (w *worker) tellLocked() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// workerState is a snapshot of a worker.
type workerState struct {
	info                 workerInfo
	rooms, waiting       []string
	registered, draining bool
	closed, failed       bool
}

func (w *worker) state() workerState {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := workerState{
		info:       workerInfo{AgentName: w.agentName, ActiveJobs: len(w.jobs), Load: w.loadLocked()},
		registered: w.out != nil, draining: w.draining, closed: w.closed,
	}
	select {
	case <-w.gaveUp:
		s.failed = true
	default:
	}
	for _, j := range w.waiting {
		s.waiting = append(s.waiting, j.room)
	}
	for _, j := range w.jobs {
		s.rooms = append(s.rooms, j.room)
	}
	return s
}
