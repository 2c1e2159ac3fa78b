// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
)

const (
	// maxFrame is the maximum size of a frame: an offer carries the metadata of a room and of
	// a participant, 64 KiB each by default.
	maxFrame     = 4 << 20
	writeTimeout = 10 * time.Second
	pingEvery    = 10 * time.Second
	// silence is how long a peer may send nothing, not even answers to pings. An agent whose
	// CPU is throttled answers late.
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

// listen limits the size of frames, and makes reads fail when the peer is gone.
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

// session is one worker's websocket and its counterpart to LiveKit. They end together.
type session struct {
	filter

	agent   *wire
	server  *wire
	onReady func()
	able    *able
	taken   bool          // LiveKit has registered the worker; used only by that pump
	ordered chan struct{} // buffered, for the one order to drain
	why     atomic.Pointer[error]
}

// errClosing is the reason if the gate itself closes.
var errClosing = errors.New("the gate is closing")

// run passes frames on until one side ends or the gate closes, and returns why. It does not
// use the request's context, because the websocket has taken over that connection.
func (s *session) run(closing <-chan struct{}) error {
	defer s.book.lose(s.id)
	s.agent.listen()
	s.server.listen()
	g, ctx := errgroup.WithContext(context.Background())
	g.Go(func() error { return s.pump(s.agent, s.server, s.passUp) })
	g.Go(func() error { return s.pump(s.server, s.agent, s.passDown) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-s.ordered:
			if err := s.sayFull(); err != nil { // LiveKit still gets a no to every offer
				s.log.Debug("LiveKit was not told that the worker is full", "err", err)
			}
		}
		return nil
	})
	g.Go(func() error {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		// The only way to interrupt a read.
		defer func() { _, _ = s.agent.conn.Close(), s.server.conn.Close() }()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-closing:
				return s.end(errClosing)
			case now := <-tick.C:
				// If the ping fails, the read fails, too.
				_ = s.agent.conn.WriteControl(websocket.PingMessage, nil, now.Add(writeTimeout))
				_ = s.server.conn.WriteControl(websocket.PingMessage, nil, now.Add(writeTimeout))
			}
		}
	})
	return g.Wait()
}

// end returns why the session ends: the first reason that it was given. It is called before
// the peers are told, because their reaction is not the reason.
func (s *session) end(err error) error {
	s.why.CompareAndSwap(nil, &err)
	return *s.why.Load()
}

// errEnded is the reason if one side has ended the websocket.
type errEnded struct {
	side string
	err  error
}

// Error does not repeat what the side sent.
func (e *errEnded) Error() string { return "the " + e.side + " ended the websocket: " + cause(e.err) }
func (e *errEnded) Unwrap() error { return e.err }

// pump passes frames of one side on to the other through a handler, which writes them. When
// the side closes, its close frame is passed on to the other.
func (s *session) pump(from, to *wire, pass func(frame) error) error {
	side := "agent"
	if from == s.server {
		side = "server"
	}
	for {
		f, err := from.read()
		if err != nil {
			why := s.end(&errEnded{side: side, err: err})
			_ = to.conn.WriteControl(websocket.CloseMessage, farewell(err), time.Now().Add(writeTimeout)) // it may be gone as well
			return why
		}
		switch err := pass(f); {
		case errors.Is(err, websocket.ErrCloseSent):
			return nil // the other side has ended, which its own pump reports
		case err != nil:
			return s.end(err)
		}
	}
}

// farewell returns the close frame that passes the end of one side on.
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

// passUp passes a frame of the worker on to LiveKit. It holds the write lock, as sayFull
// does, so that no older "available" follows a "full".
func (s *session) passUp(f frame) error {
	registered := s.known.Load()
	s.server.mu.Lock()
	passed, after, err := s.fromAgent(f, time.Now())
	if err != nil {
		s.log.Debug("A frame of the agent is passed on unread", "bytes", len(f.body)) // err repeats it
	}
	err = nil
	for _, f := range []*frame{passed, after} {
		if f != nil && err == nil {
			err = s.server.writeLocked(*f)
		}
	}
	s.server.mu.Unlock()
	if !registered && s.known.Load() {
		s.onReady()
	}
	return err
}

// passDown passes a frame of LiveKit on to the worker, or answers it.
func (s *session) passDown(f frame) error {
	passed, answer, err := s.fromServer(f, time.Now())
	if err != nil {
		s.log.Debug("A frame of LiveKit is passed on unread", "bytes", len(f.body)) // err repeats it
	}
	if !s.taken {
		s.registered(f)
	}
	if answer != nil {
		return s.server.write(*answer)
	}
	return s.agent.write(*passed)
}

// registered records that LiveKit has answered the worker's registration. From then on it
// sends offers.
func (s *session) registered(f frame) {
	m, err := f.server()
	if err != nil || m.GetRegister() == nil {
		return
	}
	s.taken = true
	s.able.registers(s.id, time.Now())
	s.log.Info("LiveKit has registered the worker")
}

// sayFull tells LiveKit that the worker takes no job.
func (s *session) sayFull() error {
	f, err := fullWorker(s.writes())
	if err != nil {
		return err
	}
	return s.server.write(f)
}
