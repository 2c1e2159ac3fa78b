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
	// wholeFile reports whether the journal has all that its gates knew: wholeYes, or
	// nothing if something could not be written. It is made while the folder is
	// empty, since a full one still lets a file be cut.
	wholeFile = "whole"
	wholeYes  = "yes\n"
)

// journal is a folder that outlives the gate, not the pod: an emptyDir. It holds a
// file for each job that runs, written before the worker hears of the job, so
// that a gate that is killed at any moment leaves none out. While it lacks one
// that could not be written, it says so to the gate that comes next. Files are not
// synced to disk: if the node dies the pod does too. Nil is no journal.
//
// What is to be written is said in the order in which it happened, at no cost, and
// is written in that order by flush.
type journal struct {
	dir string
	log *slog.Logger

	whole bool // it was when this gate began

	mu   sync.Mutex
	todo []func()

	writing sync.Mutex
	lacks   map[string]bool // files that could not be written
}

// later has something written by the next flush.
func (j *journal) later(write func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.todo = append(j.todo, write)
}

// flush writes what there is to write. When it returns, all is written that was
// there when it was called.
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

// record is what is kept of a job.
type record struct {
	ID      string    `json:"id"`
	Room    string    `json:"room"`
	Agent   string    `json:"agent"`
	Started time.Time `json:"started"`
	// Launched says that a process has it. Earlier gates did not write it.
	Launched bool `json:"launched,omitempty"`
}

func openJournal(dir string, log *slog.Logger) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	j := &journal{dir: dir, log: log, lacks: map[string]bool{}}
	// Tried at once, so that a folder that cannot be written is no surprise later.
	probe := filepath.Join(dir, "probe")
	if err := errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe)); err != nil {
		return nil, fmt.Errorf("the journal's folder cannot be used: %w; mount an emptyDir there that the gate may write", err)
	}
	return j, nil
}

// legacy is what an earlier gate knew.
type legacy struct {
	jobs     []record
	workers  int // the most that were registered at once
	unlisted int // jobs that were known by number only
}

// read returns what an earlier gate left. A file that cannot be read is a job all the
// same. From then on whole says whether that is all there was.
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
			if err == nil {
				*n, err = strconv.Atoi(strings.TrimSpace(string(raw)))
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
				j.log.Warn("A file of the journal is not understood", "file", e.Name(), "err", err)
			}
			continue
		}
		id, err := url.PathUnescape(name)
		if err != nil {
			id = name
		}
		r := record{ID: id}
		if err := json.Unmarshal(raw, &r); err != nil || r.ID != id {
			j.log.Warn("A file of the journal is half written; its job counts", "job", id, "err", err)
			r = record{ID: id}
		}
		l.jobs = append(l.jobs, r)
	}
	return l, nil
}

// begin reports whether the journal is whole. That of the pod's first gate is.
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
		j.wrote(j.file(id), nil) // it is over: nothing is lacking
	})
}

// number has workersFile or unlistedFile say a number.
func (j *journal) number(file string, n int) {
	if j != nil {
		j.later(func() {
			name := filepath.Join(j.dir, file)
			j.wrote(name, replace(name, []byte(strconv.Itoa(n))))
		})
	}
}

// replace writes a file. A gate that is killed in mid-write leaves what was there.
func replace(name string, raw []byte) error {
	if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// wrote notes whether a file is as it should be.
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
		j.log.Error("The journal cannot be written; a gate that is started again would have to ask the agent for its jobs", "err", err)
	}
}
