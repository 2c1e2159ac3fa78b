// SPDX-License-Identifier: Apache-2.0

//go:build soak

package soak

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/callguard/callguard/hack/cluster/local"
)

// machineBefore is what a run is going to run on. It is asked before the stage is set, which is load by itself.
func machineBefore(ctx context.Context) (Machine, error) {
	m := Machine{System: runtime.GOOS + "/" + runtime.GOARCH, Processors: runtime.NumCPU(), Go: runtime.Version()}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	if memory, err := os.ReadFile("/proc/meminfo"); err == nil {
		total, _, _ := strings.Cut(strings.TrimPrefix(string(memory), "MemTotal:"), "\n")
		m.Memory = strings.TrimSpace(total)
	}
	var err error
	if m.Revision, err = revision(ctx); err != nil {
		return m, err
	}
	m.LiveKit, err = liveKitVersion(ctx)
	return m, err
}

// revision is the last commit that changed what callguard ships, with a "+" if that has been changed since. Tests and docs change
// nothing of it.
func revision(ctx context.Context) (string, error) {
	shipped := []string{"--", "cmd", "pkg", "charts", "manifests", "go.mod"}
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append(args, shipped...)...)
		cmd.Dir = "../.."
		text, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("cannot tell the revision with git %s: %w; run the soak in a checkout", args[0], err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	commit, err := git("log", "-1", "--format=%h")
	if err != nil {
		return "", err
	}
	changed, err := git("status", "--porcelain")
	if changed != "" {
		commit += "+"
	}
	return commit, err
}

func liveKitVersion(ctx context.Context) (string, error) {
	program, err := local.Program(ctx, "livekit-server", io.Discard)
	if err != nil {
		return "", err
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("cannot tell the version of LiveKit: %w", err)
	}
	for _, module := range info.Deps {
		if module.Path == "github.com/livekit/livekit-server" {
			return module.Version, nil
		}
	}
	return info.Main.Version, nil
}
