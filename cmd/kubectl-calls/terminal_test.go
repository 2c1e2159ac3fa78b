// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/callguard/callguard/test/trial"
)

// asPlugin makes this test's binary run as the plugin.
const asPlugin = "CALLGUARD_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		os.Exit(run()) //nolint:forbidigo // this is main here
	}
	m.Run()
}

// shownWithin is how long the plugin may take to show a change, on a busy machine.
const shownWithin = time.Minute

// terminal is a real terminal, in tmux.
type terminal struct {
	t      *testing.T
	socket string
}

// newTerminal runs a script in a terminal of 80 columns and 24 lines; $calls in it is the plugin. After the script, the
// terminal stays as it is.
func newTerminal(t *testing.T, kubeconfig, script string) *terminal {
	t.Helper()
	program, err := os.Executable()
	trial.Must(t, err)
	folder := t.TempDir()
	file := filepath.Join(folder, "script")
	// The shell survives Ctrl-C, to print how the plugin ended.
	text := fmt.Sprintf("trap : INT\nexport %s=1 KUBECONFIG='%s' TZ=UTC\ncalls='%s'\n%s\necho \"exit $?\"\nexec sleep 600\n", asPlugin, kubeconfig, program, script)
	trial.Must(t, os.WriteFile(file, []byte(text), 0o600))
	tty := &terminal{t: t, socket: filepath.Join(folder, "tmux")}
	t.Cleanup(func() { _, _ = tty.tmux("kill-server") })
	if out, err := tty.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh "+file); err != nil {
		t.Fatalf("tmux, of Debian's package tmux, does not start: %v: %s", err, out)
	}
	return tty
}

func (tty *terminal) tmux(args ...string) (string, error) {
	cmd := exec.Command("tmux", append([]string{"-S", tty.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=screen-256color")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// do runs a tmux command.
func (tty *terminal) do(args ...string) string {
	tty.t.Helper()
	out, err := tty.tmux(args...)
	if err != nil {
		tty.t.Fatalf("tmux %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// shows waits until the screen has all of these, and returns it.
func (tty *terminal) shows(what string, all ...string) string {
	tty.t.Helper()
	screen := ""
	trial.Within(tty.t, shownWithin, what, func() error {
		screen = tty.do("capture-pane", "-p")
		for _, want := range all {
			if !strings.Contains(screen, want) {
				return fmt.Errorf("the screen does not have %q:\n%s", want, screen)
			}
		}
		return nil
	})
	return screen
}

// bars counts the bars on a screen.
func bars(screen string) int { return strings.Count(screen, "]  node/") }

// TestTerminal drains a node on a real terminal: the display is shown once, whatever its size, and after Ctrl-C the screen
// says what the state is and how to continue.
func TestTerminal(t *testing.T) {
	a, kubeconfig := newAPI(t, map[string]int64{"agent-a": 1, "agent-b": 3})
	tty := newTerminal(t, kubeconfig, "$calls drain node-1")
	tty.shows("the display of a drain", "node/node-1 cordoned", "[....................]  node/node-1: 2 of 2 pods left, with 4 calls", "  voice/agent-b: draining since ")
	a.hangUp("agent-a")
	screen := tty.shows("a pod that has left", "  voice/agent-a: gone\n", "[##########..........]  node/node-1: 1 of 2 pods left, with 3 calls")
	if bars(screen) != 1 || strings.Contains(screen, "\n  voice/agent-a: draining") {
		t.Errorf("earlier output is still on the screen:\n%s", screen)
	}
	for _, size := range []struct {
		columns, lines string
		width          int
		want           string
	}{
		{"44", "24", 44, "\n  pods left, with 3 calls\n"}, // folded by the plugin, not by tmux
		{"120", "30", 120, "[##########..........]  node/node-1: 1 of 2 pods left, with 3 calls\n"},
	} {
		tty.do("resize-window", "-x", size.columns, "-y", size.lines)
		screen = tty.shows("the display in "+size.columns+" columns", size.want)
		if bars(screen) != 1 || strings.Count(screen, "voice/agent-b: draining") != 1 {
			t.Errorf("in %s columns the display does not stand once:\n%s", size.columns, screen)
		}
		for line := range strings.Lines(screen) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > size.width {
				t.Errorf("a line has %d columns: %s", n, line)
			}
		}
	}
	tty.do("send-keys", "C-c")
	screen = tty.shows("how an interrupted drain stands", "interrupted: node node-1 stays cordoned; left on it: 1 pod\n", "To go on: kubectl calls drain node-1\n", "exit 2\n")
	if bars(screen) != 0 {
		t.Errorf("the display is still on the screen:\n%s", screen)
	}
	whole := tty.do("capture-pane", "-p", "-S", "-") // including the scrollback
	for _, want := range []string{"node/node-1 cordoned\n", "  voice/agent-a: gone\n"} {
		if strings.Count(whole, want) != 1 {
			t.Errorf("it has not %q once, which was above the display:\n%s", want, whole)
		}
	}
}

// TestPipe: output to another program is lines, without a display.
func TestPipe(t *testing.T) {
	_, kubeconfig := newAPI(t, map[string]int64{"agent-a": 1})
	tty := newTerminal(t, kubeconfig, "$calls drain node-1 --timeout=5s | od -c | grep -c 033; $calls drain node-1 --timeout=5s 2>&1 | cat")
	screen := tty.shows("lines of a drain", "node/node-1 already cordoned\n", "  1 of 1 pod left, with 1 call\n", "To go on: kubectl calls drain node-1", "exit 0\n")
	if bars(screen) != 0 || !strings.Contains(screen, "\n0\n") {
		t.Errorf("there is a display in a pipe, or an escape sequence:\n%s", screen)
	}
}

// TestWatchOnATerminal: list -w is drawn in place, and Ctrl-C ends it with success.
func TestWatchOnATerminal(t *testing.T) {
	a, kubeconfig := newAPI(t, map[string]int64{"agent-a": 1, "agent-b": 3})
	tty := newTerminal(t, kubeconfig, "$calls -A -w")
	tty.shows("the list", "agent-a", "TOTAL", "4\n")
	a.hangUp("agent-b")
	screen := tty.shows("the list after a call", "TOTAL", " 1\n")
	if strings.Count(screen, "TOTAL") != 1 {
		t.Errorf("the list does not stand in place:\n%s", screen)
	}
	tty.do("send-keys", "C-c")
	tty.shows("the end of the list", "exit 0\n")
}
