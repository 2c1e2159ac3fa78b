// SPDX-License-Identifier: Apache-2.0

// Package clock builds Go programs whose clock is wrong by an offset from their environment, for tests of what happens when
// the clocks of a cluster differ.
//
// An overlay of package time adds the variable Offset to the wall clock that time.Now reads. The monotonic clock, by which
// durations are measured, stays as it is. Only package time is compiled again, and given to the linker, so a program that
// was built before costs one more link. The linker refuses a package time for which other packages would have to be
// compiled again, so the overlay changes no line number, and nothing that other packages see.
//
// No program that callguard ships contains this package.
package clock

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Offset is the environment variable that sets how far a program's clock is ahead, such as 10m or -10m.
const Offset = "CALLGUARD_CLOCK_OFFSET"

// compiled is the variable that tells link.sh which package time to link.
const compiled = "CALLGUARD_TIME"

//go:embed link.sh
var link []byte

// edits change time.go in place, each exactly once.
func edits() [][2]string {
	return [][2]string{
		{`_ "unsafe" // for go:linkname`, `"syscall"; _ "unsafe"`},
		{"sec, nsec, mono := runtimeNow()", "sec, nsec, mono := runtimeNow(); " +
			`if text, set := syscall.Getenv("` + Offset + `"); set { ` +
			"ahead, err := ParseDuration(text); if err != nil { panic(err) }; sec += int64(ahead / Second) }"},
	}
}

// Sum changes whenever this package would build different programs from the same source.
func Sum() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q%s", edits(), link))
	return hex.EncodeToString(sum[:8])
}

// Environment returns the environment for a program whose clock should be ahead by offset.
func Environment(ahead time.Duration) []string { return []string{Offset + "=" + ahead.String()} }

// Prepare compiles package time into an existing folder, with the environment of the build. It returns one argument and an
// environment, with which a go build with -trimpath uses it.
func Prepare(ctx context.Context, dir string, env []string) (arg string, environment []string, err error) {
	root, err := goCommand(ctx, env, "env", "GOROOT")
	if err != nil {
		return "", nil, err
	}
	original := filepath.Join(root, "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read package time: %w; install Go with its sources", err)
	}
	for _, edit := range edits() {
		if n := bytes.Count(source, []byte(edit[0])); n != 1 {
			return "", nil, fmt.Errorf("cannot change the clock: %q stands %d times in %s; adapt hack/cluster/clock to this Go", edit[0], n, original)
		}
		source = bytes.Replace(source, []byte(edit[0]), []byte(edit[1]), 1)
	}
	ours, overlay, script := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "link.sh")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: ours}})
	if err != nil {
		return "", nil, err
	}
	for _, file := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{{ours, source, 0o600}, {overlay, replace, 0o600}, {script, link, 0o700}} {
		if err := os.WriteFile(file.path, file.data, file.mode); err != nil {
			return "", nil, fmt.Errorf("cannot write package time: %w", err)
		}
	}
	archive, err := goCommand(ctx, env, "list", "-trimpath", "-overlay="+overlay, "-export", "-f={{.Export}}", "time")
	if err != nil {
		return "", nil, err
	}
	return "-toolexec=" + script, append(env, compiled+"="+archive), nil
}

func goCommand(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot run go %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
