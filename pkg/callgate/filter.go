// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
)

// filter reads the frames of one session, updates the book, and decides what is passed on.
// It does no I/O. A frame that it cannot read is passed on unchanged, together with the
// error.
type filter struct {
	id    uint64
	book  *book
	url   string // LiveKit's, for assignments
	log   *slog.Logger
	kind  atomic.Int32            // the worker's message type, binary or text; 0 until it has sent one
	known atomic.Bool             // the worker has registered
	load  atomic.Pointer[float64] // what the worker last reported; nil if nothing
}

// fromAgent handles a frame of the worker. It returns what is passed on to LiveKit, and
// what is sent to LiveKit after it.
func (s *filter) fromAgent(f frame, now time.Time) (passed, after *frame, err error) {
	s.kind.Store(int32(f.kind))
	m, err := f.worker()
	if err != nil {
		s.book.counts.unread.Inc()
		return &f, nil, err
	}
	switch msg := m.Message.(type) {
	case *livekit.WorkerMessage_Register:
		s.known.Store(true)
		s.book.register(s.id)
		s.log.Info("A worker registers", "agent", msg.Register.GetAgentName(), "sdk", msg.Register.GetVersion())
		if s.book.isDraining() {
			full, err := fullWorker(f.kind)
			return &f, &full, err
		}
	case *livekit.WorkerMessage_Availability:
		changed, err := s.answered(m, f, now)
		return &changed, nil, err
	case *livekit.WorkerMessage_UpdateWorker:
		s.reports(msg.UpdateWorker)
		if s.book.isDraining() {
			full, err := f.full(m)
			return orAsItIs(full, f, err)
		}
	case *livekit.WorkerMessage_UpdateJob:
		switch msg.UpdateJob.GetStatus() {
		case livekit.JobStatus_JS_SUCCESS, livekit.JobStatus_JS_FAILED, livekit.JobStatus_JS_CANCELLED:
			s.book.end(s.id, msg.UpdateJob.GetJobId(), now)
		case livekit.JobStatus_JS_RUNNING:
			s.book.launched(s.id, msg.UpdateJob.GetJobId(), now)
		case livekit.JobStatus_JS_PENDING:
		}
	case *livekit.WorkerMessage_MigrateJob:
		s.book.adopt(s.id, msg.MigrateJob.GetJobIds(), now)
	}
	return &f, nil, nil
}

// reports keeps the load that the worker reports. One that says only that it is full, as
// LiveKit Agents for Node do when they end, reports none.
func (s *filter) reports(u *livekit.UpdateWorkerStatus) {
	load := float64(u.GetLoad())
	if !(load >= 0) || load == 0 && u.GetStatus() == livekit.WorkerStatus_WS_FULL {
		s.load.Store(nil)
		return
	}
	s.load.Store(new(math.Round(min(load, 1)*1000) / 1000)) // a float32 would have a tail of digits
}

// answered stamps a yes, or turns it into a no if the order to drain came between the offer
// and the answer.
func (s *filter) answered(m *livekit.WorkerMessage, f frame, now time.Time) (frame, error) {
	a := m.GetAvailability()
	if !a.GetAvailable() {
		s.book.decline(a.GetJobId())
		return f, nil
	}
	if !s.book.accept(s.id, a.GetJobId(), a.GetParticipantIdentity(), now) {
		s.log.Info("Refused a job that was offered before the order to drain and accepted after it", "job", a.GetJobId())
		return refusal(f.kind, a.GetJobId())
	}
	s.log.Debug("An offer is accepted", "job", a.GetJobId())
	stamped, err := f.stamp(m, string(s.book.pod))
	if err != nil {
		return f, err
	}
	return stamped, nil
}

// fromServer handles a frame of LiveKit. It returns what is passed on to the worker or, if
// the worker is not asked, the answer to LiveKit.
func (s *filter) fromServer(f frame, now time.Time) (passed, answer *frame, err error) {
	m, err := f.server()
	if err != nil {
		s.book.counts.unread.Inc()
		return &f, nil, err
	}
	switch msg := m.Message.(type) {
	case *livekit.ServerMessage_Availability:
		job := msg.Availability.GetJob()
		if job != nil && !s.book.offer(s.id, job.GetId(), job.GetRoom().GetName(), now) {
			s.log.Info("An offer is refused: the pod is draining", "job", job.GetId())
			no, err := refusal(f.kind, job.GetId())
			return nil, &no, err
		}
	case *livekit.ServerMessage_Assignment:
		if job := msg.Assignment.GetJob(); job != nil {
			s.book.assign(s.id, job.GetId(), job.GetRoom().GetName(), job.GetState().GetParticipantIdentity(), now)
			s.log.Debug("A job is assigned", "job", job.GetId())
		}
		if msg.Assignment.GetUrl() == "" {
			changed, err := f.address(m, s.url)
			return orAsItIs(changed, f, err)
		}
	case *livekit.ServerMessage_Termination:
		s.book.leave(msg.Termination.GetJobId(), now)
	}
	return &f, nil, nil
}

func orAsItIs(changed, f frame, err error) (*frame, *frame, error) {
	if err != nil {
		return &f, nil, err
	}
	return &changed, nil, nil
}

// writes returns the worker's message type, as far as it is known.
func (s *filter) writes() int {
	if s.kind.Load() == websocket.TextMessage {
		return websocket.TextMessage
	}
	return websocket.BinaryMessage
}
