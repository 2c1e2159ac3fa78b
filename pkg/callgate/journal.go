// SPDX-License-Identifier: Apache-2.0

package callgate

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	jobSuffix    = ".job"
	workersFile  = "workers"
	unlistedFile = "unlisted"
	// wholeFile records whether the journal has everything that its gates knew: it contains
	// wholeYes, or nothing if something could not be written. It is created while the folder
	// is empty, because in a full folder a file can still be truncated.
	wholeFile = "whole"
	wholeYes  = "yes\n"
)

// journal is a folder that outlives the gate, but not the pod: an emptyDir. It holds a file
// for each running job, written before the worker is told about the job, so that no job is
// missing even if the gate is killed at any moment. If a file could not be written, the
// journal records that for the next gate. Files are not synced to disk, because if the node
// dies, the pod does, too. Nil means no journal.
//
// Changes are queued in the order in which they happened, without I/O, and flush writes
// them in that order.
type journal struct {
	dir string
	log *slog.Logger

	whole bool // it was whole when this gate began

	mu   sync.Mutex
	todo []func()

	writing sync.Mutex
	lacks   map[string]bool // files that could not be written
}

// later queues something for the next flush.
func (j *journal) later(write func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.todo = append(j.todo, write)
}

// flush writes what is queued. When it returns, everything is written that was queued when
// it was called.
func (j *journal) flush() {
	if j == nil {
		return
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	todo := j.todo
	j.todo = nil
	j.mu.Unlock()
	for _, write := range todo {
		write()
	}
}

// record is what the journal keeps of a job.
type record struct {
	ID      string    `json:"id"`
	Room    string    `json:"room"`
	Agent   string    `json:"agent"`
	Started time.Time `json:"started"`
	// Launched reports that a process has it. Gates of earlier versions did not write it.
	Launched bool `json:"launched,omitempty"`
}

func openJournal(dir string, log *slog.Logger) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	j := &journal{dir: dir, log: log, lacks: map[string]bool{}}
	// Writing is tried at once, so that a read-only folder is noticed now and not later.
	probe := filepath.Join(dir, "probe")
	if err := errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe)); err != nil {
		return nil, fmt.Errorf("the journal's folder cannot be used: %w; mount an emptyDir there that the gate may write", err)
	}
	return j, nil
}

// legacy is what an earlier gate knew.
type legacy struct {
	jobs     []record
	workers  int // the most workers that were registered at the same time
	unlisted int // jobs that were counted without a name
}

// read returns what an earlier gate left. A file that cannot be read counts as a job all
// the same. From then on whole reports whether anything was missing.
func (j *journal) read() (l legacy, err error) {
	if j == nil {
		return l, nil
	}
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return l, fmt.Errorf("the journal cannot be read: %w", err)
	}
	if j.whole, err = j.begin(); err != nil {
		return l, err
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(j.dir, e.Name()))
		number := func(n *int) {
			if err != nil {
				return
			}
			var is uint64
			if is, err = strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 31); err == nil {
				*n = int(is)
			}
		}
		switch e.Name() {
		case workersFile:
			number(&l.workers)
		case unlistedFile:
			number(&l.unlisted)
		}
		if err != nil && (e.Name() == workersFile || e.Name() == unlistedFile) {
			j.whole = false
		}
		name, isJob := strings.CutSuffix(e.Name(), jobSuffix)
		if !isJob {
			if err != nil {
				j.log.Warn("Cannot read a file of the journal", "file", e.Name(), "err", err)
			}
			continue
		}
		id, err := url.PathUnescape(name)
		if err != nil {
			id = name
		}
		r := record{ID: id}
		if err := json.Unmarshal(raw, &r); err != nil || r.ID != id {
			j.log.Warn("A file of the journal is incomplete; its job still counts", "job", id, "err", err)
			r = record{ID: id}
		}
		l.jobs = append(l.jobs, r)
	}
	return l, nil
}

// begin reports whether the journal is whole. The journal of the pod's first gate is.
func (j *journal) begin() (whole bool, err error) {
	name := filepath.Join(j.dir, wholeFile)
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(name, []byte(wholeYes), 0o600); err != nil {
			return false, fmt.Errorf("the journal's folder cannot be used: %w; mount an emptyDir there that has room", err)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("the journal cannot be read: %w", err)
	}
	return string(raw) == wholeYes, nil
}

func (j *journal) add(r record) {
	if j == nil {
		return
	}
	j.later(func() {
		raw, err := json.Marshal(r)
		if err == nil {
			err = replace(j.file(r.ID), raw)
		}
		j.wrote(j.file(r.ID), err)
	})
}

func (j *journal) drop(id string) {
	if j == nil {
		return
	}
	j.later(func() {
		if err := os.Remove(j.file(id)); !j.lacks[j.file(id)] {
			j.told(err)
		}
		j.wrote(j.file(id), nil) // the job is over, so nothing is missing
	})
}

// number writes a number to workersFile or unlistedFile.
func (j *journal) number(file string, n int) {
	if j != nil {
		j.later(func() {
			name := filepath.Join(j.dir, file)
			j.wrote(name, replace(name, []byte(strconv.Itoa(n))))
		})
	}
}

// replace writes a file atomically: if the gate is killed meanwhile, the old content stays.
func replace(name string, raw []byte) error {
	if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// wrote records whether a file was written.
func (j *journal) wrote(name string, err error) {
	mark := filepath.Join(j.dir, wholeFile)
	switch {
	case err != nil:
		j.lacks[name] = true
		j.told(errors.Join(err, os.Truncate(mark, 0)))
	case j.lacks[name]:
		delete(j.lacks, name)
		if len(j.lacks) == 0 && j.whole {
			j.told(os.WriteFile(mark, []byte(wholeYes), 0o600))
		}
	}
}

func (j *journal) file(id string) string {
	return filepath.Join(j.dir, url.PathEscape(id)+jobSuffix)
}

func (j *journal) told(err error) {
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		j.log.Error("Cannot write the journal; after a restart, call-gate has to ask the agent how many jobs it has", "err", err)
	}
}
