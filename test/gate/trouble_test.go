// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/callguard/callguard/pkg/call"

	"github.com/callguard/callguard/test/nodeagent"
	"github.com/callguard/callguard/test/trial"
)

// TestGateKilled kills the gate during calls, twice: the calls go on, the worker comes
// back, and the counts are right within 5 s, with a journal and without. The second time
// the pod is draining.
func TestGateKilled(t *testing.T) {
	for _, journal := range []bool{true, false} {
		t.Run(map[bool]string{true: "Journal", false: "NoJournal"}[journal], func(t *testing.T) {
			s := startLiveKit(t)
			port := freePorts(t, 1)[0]
			args := []string{"--launch-limit=15s"} // a gate without a journal does not report zero for this long
			if journal {
				args = []string{"--journal=" + t.TempDir()}
			}
			g := startGate(t, s, port, args...)
			startAgent(t, s, g.agentURL, port, nodeagent.Plain)
			one, two := s.dial(t, "killed-1"), s.dial(t, "killed-2")
			if err := errors.Join(s.answered(t, "killed-1"), s.answered(t, "killed-2")); err != nil {
				t.Fatal(err)
			}
			if n := equal(t, s, g); n != 2 {
				t.Fatalf("%d calls", n)
			}
			before := s.agents(t)

			again := func() {
				t.Helper()
				g.kill()
				g.start()
				up := time.Now()
				right := func() error {
					if a := g.calls(); !a.Known || a.Calls != 2 {
						return fmt.Errorf("%+v", a)
					}
					return nil
				}
				trial.Within(t, 5*time.Second, "the gate says 2 calls", right)
				counted := time.Since(up)
				trial.Within(t, 5*time.Second, "the worker is back", func() error {
					if a := g.calls(); a.Workers != 1 {
						return fmt.Errorf("%+v", a)
					}
					return right()
				})
				t.Logf("gate up → counts right: %s, worker registered: %s", counted.Round(time.Millisecond), time.Since(up).Round(time.Millisecond))
				after := s.agents(t)
				if len(after) != 2 || after[0].GetSid() != before[0].GetSid() && after[0].GetSid() != before[1].GetSid() {
					t.Errorf("the calls did not go on: %v, then %v", before, after)
				}
			}
			again()
			g.order()
			again()
			if a := g.calls(); a.Draining == "" || a.Drained {
				t.Errorf("the order must be in force after a restart: %+v", a)
			}
			s.dial(t, "killed-3") // the worker that came back gets no new call
			for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(50 * time.Millisecond) {
				if a := g.calls(); a.Calls != 2 {
					t.Fatalf("a call came to a draining pod: %+v", a)
				}
			}
			one.Disconnect()
			trial.Within(t, patience, "one call is left", func() error {
				if a := g.calls(); a.Calls != 1 {
					return fmt.Errorf("%+v", a)
				}
				return nil
			})
			two.Disconnect()
			trial.Within(t, patience, "the pod is drained", func() error {
				if a := g.calls(); !a.Drained {
					return fmt.Errorf("%+v", a)
				}
				return nil
			})
			if n := len(s.agents(t)); n != 0 {
				t.Errorf("the pod was reported drained with %d agents in rooms", n)
			}
		})
	}
}

// TestLiveKitDownAtStart starts the gate and the agent before LiveKit, and restarts
// LiveKit during a call.
func TestLiveKitDownAtStart(t *testing.T) {
	s := newServer(t, freePorts(t, 2))
	port := freePorts(t, 1)[0]
	g := startGate(t, s, port, "--journal="+t.TempDir())
	a := launchAgent(t, s, g.agentURL, port, nodeagent.Plain)
	trial.Within(t, patience, "the agent is told to try again", func() error {
		if !a.says(t, "failed to connect to LiveKit server") || !g.says(t, "cannot be reached; check that it runs") {
			return errors.New("the logs do not say so")
		}
		return nil
	})
	if a := g.calls(); !a.Known || a.Calls != 0 || a.Workers != 0 {
		t.Errorf("%+v", a)
	}
	if resp, err := http.Get(g.status + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the gate is well whether LiveKit is or not: %v", err)
	} else {
		resp.Body.Close()
	}
	s.start(t)
	trial.Within(t, patience, "the worker registers", func() error {
		if a := g.calls(); a.Workers != 1 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	if !g.says(t, "LiveKit accepts workers again") {
		t.Error("the log does not say that LiveKit is back")
	}
	s.dial(t, "first")
	if err := s.answered(t, "first"); err != nil {
		t.Fatal(err)
	}
	equal(t, s, g)
	s.kill()
	s.start(t)
	// The agent's process tries to join again, or gives up; the gate follows it.
	trial.Within(t, patience, "the gate and the restarted server agree", func() error {
		if rooms, a := len(s.agents(t)), g.calls(); a.Workers != 1 || a.Calls != rooms {
			return fmt.Errorf("%d agents in rooms, %+v", rooms, a)
		}
		return nil
	})
}

// TestWrongKey has an agent with a key that LiveKit does not know.
func TestWrongKey(t *testing.T) {
	s := startLiveKit(t)
	port := freePorts(t, 1)[0]
	g := startGate(t, s, port)
	wrong := *s
	wrong.secret = "another-secret-that-livekit-does-not-know"
	a := launchAgent(t, &wrong, g.agentURL, port, nodeagent.Plain)
	trial.Within(t, patience, "the agent hears 401", func() error {
		if !a.says(t, "Unexpected server response: 401") || !g.says(t, "check the agent's LIVEKIT_API_KEY") {
			return errors.New("the logs do not say so")
		}
		return nil
	})
}

// TestWithoutGate runs the lines in docs/opt-in.md for agents without call-gate.
func TestWithoutGate(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "nodeagent", nodeagent.Snippet))
	if err != nil {
		t.Fatal(err)
	}
	_, lines, _ := strings.Cut(string(source), "// begin\n")
	lines, _, _ = strings.Cut(lines, "// end\n")
	readme, err := os.ReadFile(filepath.Join("..", "..", "docs", "opt-in.md"))
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	for line := range strings.Lines(string(readme)) {
		shown.WriteString(strings.TrimPrefix(line, "   "))
	}
	if !strings.Contains(shown.String(), strings.TrimSpace(lines)) {
		t.Errorf("docs/opt-in.md does not show the lines that are tested here:\n%s", lines)
	}

	s := startLiveKit(t)
	port := freePorts(t, 1)[0]
	file := filepath.Join(t.TempDir(), "annotations")
	write := func(text string) {
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	write("a=\"b\"\n")
	startAgent(t, s, s.url, port, nodeagent.Snippet, "ANNOTATIONS="+file, "POD_UID=uid")
	caller := s.dial(t, "code-1")
	trial.Within(t, patience, "the agent carries its pod", func() error {
		agents := s.agents(t)
		if len(agents) != 1 || agents[0].GetAttributes()[call.PodAttribute] != "uid" {
			return fmt.Errorf("%v", agents)
		}
		return nil
	})
	write(call.DrainingAnnotation + "=\"drain 2026-01-02T15:04:05Z\"\n")
	s.dial(t, "code-2")
	for begin := time.Now(); time.Since(begin) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		if n := len(s.agents(t)); n != 1 {
			t.Fatalf("%d agents are in rooms after the order; want only the earlier one", n)
		}
	}
	caller.Disconnect()
	trial.Within(t, patience, "the last agent leaves", func() error {
		if n := len(s.agents(t)); n != 0 {
			return fmt.Errorf("%d agents", n)
		}
		return nil
	})
}
