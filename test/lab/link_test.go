// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/callguard/callguard/test/lab"
)

// echo listens, and answers each line with itself.
func echo(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// linked is a link before an echo, and a connection over it.
func linked(t *testing.T) (*lab.Link, string, net.Conn) {
	t.Helper()
	link := lab.NewLink()
	t.Cleanup(link.Close)
	at, _, err := link.Listen("127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	return link, at, dial(t, at)
}

func dial(t *testing.T, at string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// say sends a line, and waits for it to come back.
func say(conn net.Conn, within time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("it says %q", line)
	}
	return err
}

const soon, aMoment = 20 * time.Second, 100 * time.Millisecond

func TestLinkCarries(t *testing.T) {
	t.Parallel()
	_, _, conn := linked(t)
	if err := say(conn, soon); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Errorf("after its orderly end the connection says %q, %v; want its end", rest, err)
	}
}

func TestSlowLinkCarriesLater(t *testing.T) {
	t.Parallel()
	link, _, conn := linked(t)
	mend, _ := link.Trouble(lab.Slow)
	began := time.Now()
	if err := say(conn, soon); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("there and back took %s; want 200ms or more", took)
	}
	mend()
	if err := say(conn, soon); err != nil {
		t.Errorf("when it is mended: %v", err)
	}
}

func TestLossyLinkBreaksConnections(t *testing.T) {
	t.Parallel()
	link, at, _ := linked(t)
	mend, _ := link.Trouble(lab.Lossy)
	defer mend()
	if _, twice := link.Trouble(lab.Slow); twice {
		t.Error("a link is in two troubles")
	}
	carried, broken := 0, 0
	for end := time.Now().Add(time.Minute); broken == 0 || carried == 0; {
		if time.Now().After(end) {
			t.Fatalf("of all that was said, %d was carried and %d broke its connection; want both", carried, broken)
		}
		conn := dial(t, at)
		for range 20 {
			if err := say(conn, soon); err != nil {
				broken++
				break
			}
			carried++
		}
	}
}

func TestCutLinkSaysNothingAndBreaks(t *testing.T) {
	t.Parallel()
	link, at, conn := linked(t)
	if err := say(conn, soon); err != nil {
		t.Fatal(err)
	}
	mend, _ := link.Trouble(lab.Cut)
	later := dial(t, at)
	for _, c := range []net.Conn{conn, later} {
		if err := say(c, aMoment); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a cut link says %v; want nothing", err)
		}
	}
	mend()
	for _, c := range []net.Conn{conn, later} {
		if err := say(c, soon); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("when it is mended, a connection of before says %v; want a reset", err)
		}
	}
	if err := say(dial(t, at), soon); err != nil {
		t.Errorf("when it is mended, a new connection says %v", err)
	}
}

func TestClosedLinkLetsNobodyWait(t *testing.T) {
	t.Parallel()
	link, at, conn := linked(t)
	if _, is := link.Trouble(lab.Cut); !is {
		t.Fatal("the link is not cut")
	}
	if err := say(conn, aMoment); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a cut link says %v; want nothing", err)
	}
	link.Close()
	if _, err := net.DialTimeout("tcp", at, soon); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed link answers %v; want a refusal", err)
	}
	if _, _, err := link.Listen("127.0.0.1:0", at); err == nil {
		t.Error("a closed link listens")
	}
}
