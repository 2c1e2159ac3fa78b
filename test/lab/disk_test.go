// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// writer writes a line into a file again and again. After each it makes an empty file, for which a full disk has room. No
// other process writes there, so nothing is written once it is killed.
const writer = `cd "$0"; trap '' XFSZ; n=0; while :; do echo line >> file; : > "turn-$n"; n=$((n+1)); sleep 0.02; done`

func TestFullDiskTakesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gate, err := StartProcess("writer", "/bin/sh", filepath.Join(t.TempDir(), "log"), "-c", writer, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gate.Kill() })
	pod := types.UID("pod")
	l := &Lab{gates: map[types.UID]*Process{pod: gate}}
	written := func() int64 {
		info, err := os.Stat(filepath.Join(dir, "file"))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	more := func(than int64) func() (bool, error) {
		return func() (bool, error) { return written() > than, nil }
	}
	if err := Eventually(t.Context(), time.Minute, "it writes", more(0)); err != nil {
		t.Fatal(err)
	}
	free, err := l.FillDisk(pod)
	if err != nil {
		t.Fatal(err)
	}
	turns := func() int {
		made, err := filepath.Glob(filepath.Join(dir, "turn-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(made)
	}
	full, began := written(), turns()
	if err := Eventually(t.Context(), time.Minute, "it tries to write", func() (bool, error) { return turns() > began+3, nil }); err != nil {
		t.Fatal(err)
	}
	if now := written(); now > full+int64(len("line\n")) { // one may have been under way
		t.Errorf("on a full disk it wrote %d bytes", now-full)
	}
	if err := free(); err != nil {
		t.Fatal(err)
	}
	if err := Eventually(t.Context(), time.Minute, "it writes again", more(written())); err != nil {
		t.Error(err)
	}
	if _, err := l.FillDisk("other"); err == nil {
		t.Error("a pod without a gate has a full disk")
	}
}
