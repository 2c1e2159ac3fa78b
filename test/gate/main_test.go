// SPDX-License-Identifier: Apache-2.0

// Package gate tests call-gate as it runs in a pod: as a process between the real
// livekit-server and the real LiveKit Agents for Node.
package gate

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	protologger "github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/callguard/callguard/hack/cluster/local"
	"github.com/callguard/callguard/test/nodeagent"
)

// stage is what all tests share: programs, built or installed once.
var stage struct {
	livekit, gate, modules string
	ports                  []int // already given to tests
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	lksdk.SetLogger(protologger.LogRLogger(logr.Discard()))
	var err error
	if stage.livekit, err = local.Program(ctx, "livekit-server", os.Stderr); err != nil {
		return 1, err
	}
	if stage.modules, err = nodeagent.Install(ctx, os.Stderr); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "callguard-gate-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	stage.gate = filepath.Join(dir, "call-gate")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", stage.gate, "../../cmd/call-gate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("cannot build call-gate: %w\n%s", err, out)
	}
	return m.Run(), nil
}
