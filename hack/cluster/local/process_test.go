// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

func TestRecycledPIDIsNeverSignalled(t *testing.T) {
	p, err := startProcess("/bin/sleep", []string{"60"}, nil, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatalf("no sleep program: %v", err)
	}
	t.Cleanup(func() { _ = p.kill(context.Background()) })
	earlier := process{PID: p.PID, Started: "another-boot/1"}
	if earlier.alive() {
		t.Error("another process with the same number counts as ours")
	}
	if err := earlier.signal(syscall.SIGKILL); !errors.Is(err, errGone) {
		t.Errorf("signal to a recycled number: got %v, want errGone", err)
	}
	if err := earlier.kill(t.Context()); err != nil {
		t.Errorf("kill of a recycled number: %v", err)
	}
	if !p.alive() {
		t.Fatal("the process that has the number now was killed")
	}
	if err := (process{}).signal(syscall.SIGKILL); !errors.Is(err, errGone) {
		t.Errorf("signal to no process: got %v, want errGone", err)
	}
	if err := p.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := poll(t.Context(), func() (bool, error) { return p.paused(), nil }); err != nil || !p.alive() {
		t.Errorf("a paused process: alive %v, %v; want alive", p.alive(), err)
	}
	if err := p.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.alive() {
		t.Error("a killed process counts as alive")
	}
}
