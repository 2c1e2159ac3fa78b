// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"golang.org/x/sync/errgroup"
)

const (
	// maxFrame bounds a frame: an offer carries the metadata of a room and of a
	// participant, 64 KiB each by default.
	maxFrame     = 4 << 20
	writeTimeout = 10 * time.Second
	pingEvery    = 10 * time.Second
	// silence is how long a peer may say nothing, not even answer pings. An agent
	// whose CPU is throttled answers late.
	silence = time.Minute
)

// wire is one side of a session. Frames are written one at a time.
type wire struct {
	conn *websocket.Conn
	mu   sync.Mutex
}

func (w *wire) write(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writeLocked(f)
}

func (w *wire) writeLocked(f frame) error {
	_ = w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only where the write does
	return w.conn.WriteMessage(f.kind, f.body)
}

// listen makes the wire bounded and notice when its peer is gone.
func (w *wire) listen() {
	w.conn.SetReadLimit(maxFrame)
	extend := func() { _ = w.conn.SetReadDeadline(time.Now().Add(silence)) } // fails only where the read does
	extend()
	answer := w.conn.PingHandler()
	w.conn.SetPingHandler(func(data string) error { extend(); return answer(data) })
	w.conn.SetPongHandler(func(string) error { extend(); return nil })
}

// read returns the next frame.
func (w *wire) read() (frame, error) {
	kind, body, err := w.conn.ReadMessage()
	if err == nil {
		_ = w.conn.SetReadDeadline(time.Now().Add(silence)) // fails only where the read does
	}
	return frame{kind: kind, body: body}, err
}

// session is one worker's websocket and the one to LiveKit that belongs to it.
// They end together.
type session struct {
	id      uint64
	agent   *wire
	server  *wire
	book    *book
	url     string // LiveKit's, for assignments
	log     *slog.Logger
	kind    atomic.Int32 // how the worker writes
	known   atomic.Bool  // the worker has registered
	onReady func()
}

// run passes frames on until one side ends or ctx is done, and returns why.
func (s *session) run(ctx context.Context) error {
	s.kind.Store(websocket.BinaryMessage)
	defer s.book.lose(s.id)
	s.agent.listen()
	s.server.listen()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.pump(s.agent, s.server, s.fromAgent) })
	g.Go(func() error { return s.pump(s.server, s.agent, s.fromServer) })
	g.Go(func() error {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				// The only way to interrupt a read.
				_ = s.agent.conn.Close()
				_ = s.server.conn.Close()
				return context.Cause(ctx)
			case now := <-tick.C:
				// A ping that fails shows in the read.
				_ = s.agent.conn.WriteControl(websocket.PingMessage, nil, now.Add(writeTimeout))
				_ = s.server.conn.WriteControl(websocket.PingMessage, nil, now.Add(writeTimeout))
			}
		}
	})
	return g.Wait()
}

// errEnded is how the end of one side ends the other.
type errEnded struct {
	side string
	err  error
}

func (e *errEnded) Error() string { return "the " + e.side + " ended the websocket: " + e.err.Error() }
func (e *errEnded) Unwrap() error { return e.err }

// pump passes frames of one side on to the other through a handler, which writes
// them. When the side ends, the other is told in its words.
func (s *session) pump(from, to *wire, pass func(frame) error) error {
	side := "agent"
	if from == s.server {
		side = "server"
	}
	for {
		f, err := from.read()
		if err != nil {
			_ = to.conn.WriteControl(websocket.CloseMessage, farewell(err), time.Now().Add(writeTimeout)) // it may be gone as well
			return &errEnded{side: side, err: err}
		}
		if err := pass(f); err != nil {
			return err
		}
	}
}

// farewell is the close frame that passes the end of one side on.
func farewell(err error) []byte {
	var closed *websocket.CloseError
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return websocket.FormatCloseMessage(websocket.CloseMessageTooBig, "frame too large for call-gate")
	case !errors.As(err, &closed) || closed.Code == websocket.CloseAbnormalClosure || closed.Code == websocket.CloseTLSHandshake:
		return websocket.FormatCloseMessage(websocket.CloseGoingAway, "connection lost behind call-gate")
	default:
		return websocket.FormatCloseMessage(closed.Code, closed.Text)
	}
}

// fromAgent passes a frame of the worker on to LiveKit.
func (s *session) fromAgent(f frame) error {
	s.kind.Store(int32(f.kind))
	m, err := f.worker()
	if err != nil {
		return s.unread("agent", f, s.server, err)
	}
	now := time.Now()
	switch m := m.Message.(type) {
	case *livekit.WorkerMessage_Register:
		if err := s.server.write(f); err != nil {
			return err
		}
		s.known.Store(true)
		s.book.register(s.id)
		s.log.Info("A worker registers", "agent", m.Register.GetAgentName(), "sdk", m.Register.GetVersion())
		s.onReady()
		if s.book.isDraining() {
			return s.sayFull()
		}
		return nil
	case *livekit.WorkerMessage_Availability:
		f = s.answered(m.Availability, f, now)
	case *livekit.WorkerMessage_UpdateWorker:
		return s.updated(f)
	case *livekit.WorkerMessage_UpdateJob:
		switch m.UpdateJob.GetStatus() {
		case livekit.JobStatus_JS_SUCCESS, livekit.JobStatus_JS_FAILED:
			s.book.end(m.UpdateJob.GetJobId(), now)
		case livekit.JobStatus_JS_RUNNING:
			s.book.launched(m.UpdateJob.GetJobId())
		case livekit.JobStatus_JS_PENDING:
		}
	case *livekit.WorkerMessage_MigrateJob:
		s.book.adopt(s.id, m.MigrateJob.GetJobIds(), now)
	}
	return s.server.write(f)
}

// answered stamps a yes, or makes a no of it.
func (s *session) answered(a *livekit.AvailabilityResponse, f frame, now time.Time) frame {
	id := a.GetJobId()
	var changed frame
	var err error
	switch {
	case !a.GetAvailable():
		s.book.decline(id)
		return f
	case s.book.accept(s.id, id, a.GetParticipantIdentity(), now):
		s.log.Debug("An offer is accepted", "job", id)
		changed, err = f.stamp(&livekit.WorkerMessage{Message: &livekit.WorkerMessage_Availability{Availability: a}}, string(s.book.pod))
	default:
		s.log.Info("The worker accepts an offer that came before the order to drain; LiveKit is told no", "job", id)
		changed, err = refusal(f.kind, id)
	}
	if err != nil { // what was read can be written
		s.log.Warn("An answer is passed on unchanged", "job", id, "err", err)
		return f
	}
	return changed
}

// updated passes the worker's load on. While the pod drains, LiveKit hears that
// the worker is full; the order is looked at under the same lock under which
// sayFull writes, so that no older "available" follows it.
func (s *session) updated(f frame) error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if s.book.isDraining() {
		m, err := f.worker()
		if err == nil {
			f, err = f.full(m)
		}
		if err != nil {
			return err
		}
	}
	return s.server.writeLocked(f)
}

// sayFull tells LiveKit that the worker takes no job.
func (s *session) sayFull() error {
	f, err := fullWorker(int(s.kind.Load()))
	if err != nil {
		return err
	}
	return s.server.write(f)
}

// fromServer passes a frame of LiveKit on to the worker.
func (s *session) fromServer(f frame) error {
	m, err := f.server()
	if err != nil {
		return s.unread("server", f, s.agent, err)
	}
	now := time.Now()
	switch msg := m.Message.(type) {
	case *livekit.ServerMessage_Availability:
		offer := msg.Availability.GetJob()
		if offer != nil && !s.book.offer(s.id, offer.GetId(), offer.GetRoom().GetName(), now) {
			s.log.Info("An offer is refused: the pod is draining", "job", offer.GetId())
			no, err := refusal(f.kind, offer.GetId())
			if err != nil {
				return err
			}
			return s.server.write(no)
		}
	case *livekit.ServerMessage_Assignment:
		given := msg.Assignment.GetJob()
		if given != nil {
			s.book.assign(s.id, given.GetId(), given.GetRoom().GetName(), given.GetState().GetParticipantIdentity(), now)
			s.log.Debug("A job is assigned", "job", given.GetId())
		}
		if msg.Assignment.GetUrl() == "" {
			if changed, err := f.address(m, s.url); err != nil {
				s.log.Warn("An assignment is passed on unchanged", "job", given.GetId(), "err", err)
			} else {
				f = changed
			}
		}
	case *livekit.ServerMessage_Termination:
		s.book.leave(msg.Termination.GetJobId(), now)
	}
	return s.agent.write(f)
}

// unread passes on what is not understood.
func (s *session) unread(side string, f frame, to *wire, cause error) error {
	s.book.counts.unread.Inc()
	s.log.Debug("A frame is passed on unread", "from", side, "bytes", len(f.body), "err", cause)
	return to.write(f)
}
