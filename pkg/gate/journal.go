// SPDX-License-Identifier: Apache-2.0

package gate

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
	"time"
)

const (
	jobSuffix   = ".job"
	workersFile = "workers"
)

// journal is a folder that outlives the gate, not the pod: an emptyDir. It holds a
// file for each job that runs, written before the worker hears of the job, so
// that a gate that is killed at any moment leaves none out. Files are not synced
// to disk: if the node dies the pod does too. Nil is no journal.
type journal struct {
	dir string
	log *slog.Logger
}

// record is what is kept of a job.
type record struct {
	ID      string    `json:"id"`
	Room    string    `json:"room"`
	Agent   string    `json:"agent"`
	Started time.Time `json:"started"`
}

func openJournal(dir string, log *slog.Logger) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	j := &journal{dir: dir, log: log}
	// Tried at once, so that a folder that cannot be written is no surprise later.
	probe := filepath.Join(dir, "probe")
	if err := errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe)); err != nil {
		return nil, fmt.Errorf("the journal's folder cannot be used: %w; mount an emptyDir there that the gate may write", err)
	}
	return j, nil
}

// read returns what an earlier gate left: its jobs, and the most workers that were
// registered at once. A file that cannot be read is a job all the same.
func (j *journal) read() (jobs []record, workers int, err error) {
	if j == nil {
		return nil, 0, nil
	}
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, 0, fmt.Errorf("the journal cannot be read: %w", err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(j.dir, e.Name()))
		if e.Name() == workersFile && err == nil {
			workers, err = strconv.Atoi(strings.TrimSpace(string(raw)))
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
		jobs = append(jobs, r)
	}
	return jobs, workers, nil
}

func (j *journal) add(r record) {
	if j == nil {
		return
	}
	raw, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(j.file(r.ID), raw, 0o600)
	}
	j.told(err)
}

func (j *journal) drop(id string) {
	if j != nil {
		j.told(os.Remove(j.file(id)))
	}
}

func (j *journal) workers(n int) {
	if j != nil {
		j.told(os.WriteFile(filepath.Join(j.dir, workersFile), []byte(strconv.Itoa(n)), 0o600))
	}
}

func (j *journal) file(id string) string {
	return filepath.Join(j.dir, url.PathEscape(id)+jobSuffix)
}

func (j *journal) told(err error) {
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		j.log.Error("The journal cannot be written; a gate that is started again would not know its jobs", "err", err)
	}
}
