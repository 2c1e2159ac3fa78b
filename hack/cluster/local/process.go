// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process identifies one process for good, even if the kernel reuses its number.
type process struct {
	PID int `json:"pid"`
	// Started is the boot and the clock tick at which the process started.
	Started string `json:"started"`
}

// errGone means that the process has exited.
var errGone = errors.New("the process is gone")

// startProcess runs a program in its own session, so that it outlives its starter, with additional environment variables
// and with its output in a file.
func startProcess(program string, args, env []string, log string) (process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return process{}, fmt.Errorf("cannot open the log: %w", err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(program, args...) //nolint:noctx // it outlives its starter
	cmd.Stdout, cmd.Stderr = out, out
	// Nothing in the starter's environment configures it; etcd and client-go would read some variables.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return process{}, err
	}
	stat, err := readProcessStat(cmd.Process.Pid)
	// This only reaps the process if it ends before its starter; whether it is alive is read from the kernel.
	go func() { _ = cmd.Wait() }()
	if err != nil {
		_ = cmd.Process.Kill()
		return process{}, err
	}
	return process{PID: cmd.Process.Pid, Started: stat.started}, nil
}

// alive reports whether this very process still exists, running or paused.
func (p process) alive() bool {
	stat, err := readProcessStat(p.PID)
	return err == nil && stat.started == p.Started && !stat.ended()
}

// paused reports whether the process is stopped by SIGSTOP.
func (p process) paused() bool {
	stat, err := readProcessStat(p.PID)
	return err == nil && stat.started == p.Started && stat.letter == "T"
}

// signal reaches this very process or none: it takes the handle first and checks the identity afterwards.
func (p process) signal(sig syscall.Signal) error {
	if p.PID <= 0 {
		return errGone
	}
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return errGone
	}
	defer func() { _ = handle.Release() }()
	if !p.alive() {
		return errGone
	}
	if err := handle.Signal(sig); errors.Is(err, os.ErrProcessDone) {
		return errGone
	} else if err != nil {
		return fmt.Errorf("cannot send %s to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// waitGone waits until the process has ended.
func (p process) waitGone(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d still runs: %w", p.PID, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// kill ends the process at once and waits until it is gone. It may be gone already.
func (p process) kill(ctx context.Context) error {
	if err := p.signal(syscall.SIGKILL); errors.Is(err, errGone) {
		return nil
	} else if err != nil {
		return err
	}
	return p.waitGone(ctx)
}

// processStat is what the kernel reports about a process.
type processStat struct {
	started, letter string
	threads         int
}

// ended is more than being a zombie: the first thread of a killed process becomes one while others still hold its ports.
func (s processStat) ended() bool {
	return (s.letter == "Z" || s.letter == "X") && s.threads <= 1
}

func readProcessStat(pid int) (processStat, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return processStat{}, fmt.Errorf("cannot read the boot id: %w; this needs Linux", err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, err
	}
	// The program's name is in parentheses and may contain spaces and parentheses.
	_, rest, found := lastCut(string(raw), ")")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 {
		return processStat{}, fmt.Errorf("cannot read the state of process %d: unexpected %q", pid, raw)
	}
	threads, err := strconv.Atoi(fields[17])
	if err != nil {
		return processStat{}, fmt.Errorf("cannot read the state of process %d: %w", pid, err)
	}
	return processStat{started: strings.TrimSpace(string(boot)) + "/" + fields[19], letter: fields[0], threads: threads}, nil
}

func lastCut(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
