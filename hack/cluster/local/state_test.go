// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStateSurvivesTheDisk(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadState(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loadState of an empty folder: got %v, want fs.ErrNotExist", err)
	}
	want := state{Format: stateFormat, Config: Config{Name: "a", Nodes: 2}.withDefaults(), Ports: map[string]int{Etcd: 1}, FirstSlice: 20}
	want.Config.Progress = nil
	want.Components = []component{{Name: Etcd, Args: []string{"--x"}, Process: process{PID: 7, Started: "boot/1"}}}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("state after save and load: -want, +got:\n%s", diff)
	}
	info, err := os.Stat(stateFile(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state holds secrets: got mode %v, %v; want 0600", info.Mode(), err)
	}
	if err := os.WriteFile(stateFile(dir), []byte(`{"format":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loadState of half a file: got %v, want an error that is not fs.ErrNotExist", err)
	}
}
