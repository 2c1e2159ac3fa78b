// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Trouble is what is wrong with a link.
type Trouble string

// The troubles of links.
const (
	// Slow: everything arrives later.
	Slow Trouble = "slow"
	// Lossy: one in lossOf chunks arrives later still, as what TCP has to send again, and one in breakOf breaks its connection.
	Lossy Trouble = "lossy"
	// Cut: nothing arrives, and nobody is told. New connections are made and say nothing. When the link is mended, all of them break.
	Cut Trouble = "cut"
)

// Troubles lists them.
func Troubles() []Trouble { return []Trouble{Slow, Lossy, Cut} }

const (
	slowLeast, slowMost     = 100 * time.Millisecond, 400 * time.Millisecond
	resentLeast, resentMost = 200 * time.Millisecond, 2 * time.Second
	lossOf, breakOf         = 5, 20
	chunk                   = 32 << 10
	dialWithin              = 5 * time.Second
)

// Link carries TCP connections between programs of the stage, and can be in trouble. It is not a proxy of any protocol: it
// knows bytes alone. Media, which is UDP, does not pass it.
type Link struct {
	mu        sync.Mutex
	trouble   Trouble       // empty: none
	mended    chan struct{} // closed when the trouble is over
	conns     map[net.Conn]bool
	listeners []net.Listener
	closed    bool
	work      sync.WaitGroup
}

// NewLink makes a link without trouble.
func NewLink() *Link { return &Link{mended: make(chan struct{}), conns: map[net.Conn]bool{}} }

// Listen carries what comes to an address to another one, until stop is called. Port 0 is any free port; at is the address.
func (l *Link) Listen(address, to string) (at string, stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("cannot put a link before %s: %w", to, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return "", nil, errors.Join(errors.New("the link is closed"), listener.Close())
	}
	l.listeners = append(l.listeners, listener)
	l.work.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			l.work.Go(func() { l.carry(from, to) })
		}
	})
	return listener.Addr().String(), func() { _ = listener.Close() }, nil
}

// Trouble puts the link into trouble until mend is called, unless it is in one.
func (l *Link) Trouble(t Trouble) (mend func(), is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trouble != "" {
		return nil, false
	}
	l.trouble = t
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.trouble = ""
		close(l.mended)
		l.mended = make(chan struct{})
		if t == Cut {
			l.breakLocked()
		}
	}, true
}

// Close ends all connections, and takes no more.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	close(l.mended) // nobody waits any more
	l.mended = make(chan struct{})
	for _, listener := range l.listeners {
		_ = listener.Close()
	}
	l.breakLocked()
	l.mu.Unlock()
	l.work.Wait()
}

// breakLocked resets every connection: both ends get an error, and not an orderly end.
func (l *Link) breakLocked() {
	for conn := range l.conns {
		reset(conn)
	}
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// keep notes a connection that the link may break, and reports whether the link is still there.
func (l *Link) keep(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.conns[conn] = true
	return true
}

// carry carries one connection until one of its ends has ended it.
func (l *Link) carry(from net.Conn, to string) {
	defer l.forget(from)
	if !l.keep(from) {
		return
	}
	there, err := net.DialTimeout("tcp", to, dialWithin) //nolint:noctx // a connection of a link ends with the link
	if err != nil {
		reset(from) // as if nobody listened
		return
	}
	defer l.forget(there)
	if !l.keep(there) {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, there}, {there, from}} {
		both.Go(func() {
			if err := l.copy(way[1], way[0]); err != nil {
				reset(from)
				reset(there)
				return
			}
			if tcp, ok := way[1].(*net.TCPConn); ok {
				_ = tcp.CloseWrite() // the other direction may go on
			}
		})
	}
	both.Wait()
}

func (l *Link) forget(conn net.Conn) {
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
	_ = conn.Close()
}

// errBroken ends a connection that the link breaks.
var errBroken = errors.New("the link broke the connection")

// copy carries one direction until it ends in an orderly way, or breaks.
func (l *Link) copy(to, from net.Conn) error {
	buffer := make([]byte, chunk)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if err := l.pass(); err != nil {
				return err
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return l.pass()
		}
		if err != nil {
			return err
		}
	}
}

// pass takes as long as the link takes for a chunk.
func (l *Link) pass() error {
	l.mu.Lock()
	trouble, mended := l.trouble, l.mended
	l.mu.Unlock()
	switch trouble {
	case Slow:
		l.wait(mended, between(slowLeast, slowMost))
	case Lossy:
		if rand.IntN(breakOf) == 0 {
			return errBroken
		}
		if rand.IntN(lossOf) == 0 {
			l.wait(mended, between(resentLeast, resentMost))
		}
	case Cut:
		<-mended
		return errBroken
	}
	return nil
}

func (l *Link) wait(mended chan struct{}, length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-mended:
	case <-timer.C:
	}
}

func between(least, most time.Duration) time.Duration {
	return least + rand.N(most-least)
}
