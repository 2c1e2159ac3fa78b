// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/callguard/callguard/hack/cluster/clock"
)

const stopPatience = 20 * time.Second

// Process is a program of callguard that runs outside the cluster. It ends with the process that started it.
type Process struct {
	PID int
	Log string // file

	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of its end, once ended is closed
}

// environment returns the variables with which a program's clock is ahead.
func environment(ahead time.Duration) []string {
	if ahead == 0 {
		return nil
	}
	return clock.Environment(ahead)
}

// StartProcess runs a program with its output in a file. It is killed when this process ends.
func StartProcess(name, program, log string, args ...string) (*Process, error) {
	return startIn(nil, name, program, log, args...)
}

// startIn runs a program with additional environment variables and its output in a file.
func startIn(env []string, name, program, log string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write the log of the %s: %w", name, err)
	}
	defer func() { _ = out.Close() }()                                                                   // the process has its own
	p := &Process{Log: log, name: name, cmd: exec.Command(program, args...), ended: make(chan struct{})} //nolint:noctx // Stop and Kill end it
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if len(env) > 0 {
		p.cmd.Env = append(os.Environ(), env...)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Linux ends the child when the thread that started it ends, not the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start the %s: %w", name, err)
	}
	p.PID = p.cmd.Process.Pid
	return p, nil
}

// Alive returns why the process has ended, or nil while it runs.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("the %s has ended: %w; see %s", p.name, errors.Join(p.err, os.ErrProcessDone), p.Log)
	default:
		return nil
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Stop asks the process to end and waits for it. It may be called after that.
func (p *Process) Stop() error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop the %s: %w", p.name, err)
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(stopPatience):
		return errors.Join(fmt.Errorf("the %s did not stop within %s", p.name, stopPatience), p.Kill())
	}
}

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot kill the %s: %w", p.name, err)
	}
	<-p.ended
	return nil
}

// Pause pauses the process: it does nothing, and nobody is told. Kill also ends a paused process.
func (p *Process) Pause() error { return p.signal("pause", syscall.SIGSTOP) }

// Continue resumes it.
func (p *Process) Continue() error { return p.signal("continue", syscall.SIGCONT) }

func (p *Process) signal(what string, sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("cannot %s the %s: %w", what, p.name, err)
	}
	return nil
}

// program returns the path of a command of this checkout. Without Options.Programs it builds it, once per stage.
func (l *Lab) program(ctx context.Context, name string) (string, error) {
	if l.programs != "" {
		path, err := filepath.Abs(filepath.Join(l.programs, name))
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", fmt.Errorf("no %s in the folder of programs: %w; run \"make build\"", name, err)
		}
		return path, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	path := filepath.Join(l.Cluster.Dir(), name)
	if l.built[name] {
		return path, nil
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	// The flags are those of the control plane's programs, so that shared packages are compiled once.
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if l.clock != 0 || l.gateClock != 0 {
		dir, err := os.MkdirTemp("", "callguard-clock-")
		if err != nil {
			return "", fmt.Errorf("cannot build the %s: %w", name, err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		arg, changed, err := clock.Prepare(ctx, dir, env)
		if err != nil {
			return "", fmt.Errorf("cannot build the %s: %w", name, err)
		}
		args, env = append(args, arg), changed
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/"+name)...)
	cmd.Dir, cmd.Env = root, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the %s: %w: %s", name, err, out)
	}
	l.built[name] = true
	return path, nil
}

// keyFiles writes the key of the default project as a mounted Secret would.
func (l *Lab) keyFiles() (key, secret string, err error) {
	key, secret = filepath.Join(l.Cluster.Dir(), "api-key"), filepath.Join(l.Cluster.Dir(), "api-secret")
	err = errors.Join(os.WriteFile(key, []byte(l.LiveKits[0].APIKey), 0o600), os.WriteFile(secret, []byte(l.LiveKits[0].APISecret), 0o600))
	if err != nil {
		return "", "", fmt.Errorf("cannot write LiveKit's key: %w", err)
	}
	return key, secret, nil
}

func (l *Lab) log(name string, port int) string {
	return filepath.Join(l.Cluster.Dir(), "logs", fmt.Sprintf("%s-%d.log", name, port))
}
