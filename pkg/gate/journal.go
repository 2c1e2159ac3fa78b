// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const journalFile = "jobs.json"

// journal is a file that outlives the gate, not the pod: an emptyDir. Nil is no
// journal.
type journal struct{ path string }

// kept is what the file holds.
type kept struct {
	Workers int      `json:"workers"` // the most that were registered at once
	Jobs    []record `json:"jobs"`
}

func (kept) next(records []record, workers int) kept { return kept{Workers: workers, Jobs: records} }

func openJournal(dir string) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("the journal's folder cannot be used: %w; mount an emptyDir there", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("the journal's folder %s is a file; name the folder that an emptyDir is mounted at", dir)
	}
	return &journal{path: filepath.Join(dir, journalFile)}, nil
}

// read returns what an earlier gate wrote. No file means that there was none.
func (j *journal) read() (k kept, first bool, err error) {
	if j == nil {
		return kept{}, true, nil
	}
	raw, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept{}, true, nil
	}
	if err != nil {
		return kept{}, false, err
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return kept{}, false, fmt.Errorf("%s is no journal: %w", j.path, err)
	}
	return k, false, nil
}

// write replaces the file as a whole. It is not synced to disk: if the node
// dies the pod does too.
func (j *journal) write(k kept) error {
	if j == nil {
		return nil
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("cannot write the journal: %w", err)
	}
	temp := j.path + ".new"
	if err := errors.Join(os.WriteFile(temp, raw, 0o600), os.Rename(temp, j.path)); err != nil {
		return fmt.Errorf("cannot write the journal: %w; mount an emptyDir that the gate may write", err)
	}
	return nil
}
