// SPDX-License-Identifier: Apache-2.0

package clock_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/callguard/callguard/hack/cluster/clock"
)

// program prints its time, and whether a measured duration is right.
const program = `package main

import (
	"fmt"
	"time"
)

func main() {
	began := time.Now()
	time.Sleep(10 * time.Millisecond)
	fmt.Println(began.Unix(), time.Since(began) < time.Minute && time.Until(began.Add(time.Minute)) > 0 && time.Now().Sub(began) >= 10*time.Millisecond)
}
`

func TestProgramsHaveTheClockOfTheirEnvironment(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module tiny\n\ngo 1.24\n", "main.go": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	arg, env, err := clock.Prepare(t.Context(), t.TempDir(), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off"))
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", arg, "-o", "tiny", ".")
	build.Dir, build.Env = dir, env
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	for _, ahead := range []time.Duration{0, 10 * time.Minute, -10 * time.Minute} {
		run := exec.CommandContext(t.Context(), filepath.Join(dir, "tiny"))
		run.Env = append(os.Environ(), clock.Environment(ahead)...)
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		said := strings.Fields(string(out))
		seconds, err := strconv.ParseInt(said[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if off := time.Until(time.Unix(seconds, 0)) - ahead; off.Abs() > time.Minute || said[1] != "true" {
			t.Errorf("with an offset of %s it says %s: off by %s", ahead, out, off)
		}
	}
}
