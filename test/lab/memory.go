// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// confinement limits the memory of a program, including all its restarts, as a container does, with a cgroup. It needs
// root.
type confinement struct {
	name string
	dir  string
	// The files of cgroup v1 or v2 with the limit, the peak, and the number of kills.
	limit, peak, events string
}

// confine creates the cgroup.
func confine(name string, bytes int64) (*confinement, error) {
	c := &confinement{name: name, dir: filepath.Join("/sys/fs/cgroup", "callguard-"+name), limit: "memory.max", peak: "memory.peak", events: "memory.events"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		c.dir = filepath.Join("/sys/fs/cgroup/memory", "callguard-"+name)
		c.limit, c.peak, c.events = "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
	}
	if err := errors.Join(os.Mkdir(c.dir, 0o755), os.WriteFile(filepath.Join(c.dir, c.limit), []byte(strconv.FormatInt(bytes, 10)), 0o600)); err != nil {
		return nil, fmt.Errorf("cannot confine the memory of the %s, which needs root: %w", name, errors.Join(err, c.close()))
	}
	for _, swap := range []string{"memory.swap.max", "memory.memsw.limit_in_bytes"} { // the limit of swap in v2, of memory and swap in v1
		file, most := filepath.Join(c.dir, swap), int64(0)
		if swap != "memory.swap.max" {
			most = bytes
		}
		if _, err := os.Stat(file); err != nil {
			continue // of the other version, or the kernel counts no swap
		}
		if err := os.WriteFile(file, []byte(strconv.FormatInt(most, 10)), 0o600); err != nil {
			return nil, fmt.Errorf("cannot keep the %s from swapping: %w", name, errors.Join(err, c.close()))
		}
	}
	return c, nil
}

// command returns a command line that runs a program in the cgroup.
func (c *confinement) command(program string, args []string) (string, []string) {
	const enter = `echo $$ >"$0" && exec "$@"`
	return "/bin/sh", append([]string{"-c", enter, filepath.Join(c.dir, "cgroup.procs"), program}, args...)
}

// close removes the cgroup. Its processes must have ended.
func (c *confinement) close() error {
	if err := os.Remove(c.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot take away the cgroup of the %s: %w", c.name, err)
	}
	return nil
}

// Memory is how much memory a program of the stage used.
type Memory struct {
	// Program is its name and port.
	Program string
	// Peak is the maximum, in bytes, including kernel memory.
	Peak int64
	// Kills is how often the kernel killed it for lack of memory.
	Kills int64
}

// Memory returns how much memory adapter and guards used. It is empty without Options.MemoryLimit.
func (l *Lab) Memory() ([]Memory, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Memory
	for _, c := range l.confined {
		peak, err := os.ReadFile(filepath.Join(c.dir, c.peak))
		if err != nil {
			return nil, fmt.Errorf("cannot tell what the %s has taken: %w", c.name, err)
		}
		m := Memory{Program: c.name}
		if m.Peak, err = strconv.ParseInt(strings.TrimSpace(string(peak)), 10, 64); err != nil {
			return nil, fmt.Errorf("cannot tell what the %s has taken: %w", c.name, err)
		}
		if m.Kills, err = c.kills(); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func (c *confinement) kills() (int64, error) {
	events, err := os.ReadFile(filepath.Join(c.dir, c.events))
	if err != nil {
		return 0, fmt.Errorf("cannot tell whether the %s was killed: %w", c.name, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(events)); lines.Scan(); {
		if n, is := strings.CutPrefix(lines.Text(), "oom_kill "); is {
			return strconv.ParseInt(n, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s of the %s does not say how often it was killed", c.events, c.name)
}

// start starts adapter or guard, with Options.MemoryLimit if it is set.
func (l *Lab) start(env []string, name, program, log string, port int, args ...string) (*Process, error) {
	if l.memory == 0 {
		return startIn(env, name, program, log, args...)
	}
	c, err := l.confinement(fmt.Sprintf("%s-%d", name, port))
	if err != nil {
		return nil, err
	}
	// As in the chart.
	env = append(env, fmt.Sprintf("GOMEMLIMIT=%dMiB", l.memory*8/10>>20))
	program, args = c.command(program, args)
	return startIn(env, name, program, log, args...)
}

// confinement returns the cgroup of a program, which stays the same when it restarts.
func (l *Lab) confinement(name string) (*confinement, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.confined {
		if c.name == name {
			return c, nil
		}
	}
	c, err := confine(name, l.memory)
	if err != nil {
		return nil, err
	}
	l.confined = append(l.confined, c)
	return c, nil
}

// release removes all cgroups, once their processes have ended.
func (l *Lab) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, c := range l.confined {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
