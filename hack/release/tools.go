// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// tools are Helm and cosign as a release runs them: with their own home, so that they use no login, cache or key of
// this user, and unable to reach anything but loopback.
type tools struct {
	paths       map[string]string
	environment []string
}

const (
	helm   = "helm"
	cosign = "cosign"
)

// buildTools builds them, unless they are in Go's cache, with dir as their home.
func buildTools(ctx context.Context, c *checkout, dir string) (*tools, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a home for the tools: %w", err)
	}
	t := &tools{paths: map[string]string{}}
	for _, name := range []string{helm, cosign} {
		cmd := exec.CommandContext(ctx, "go", "tool", "-n", "-modfile="+filepath.Join("hack", "tools", name, "go.mod"), name)
		cmd.Dir = c.dir
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("cannot build %s of hack/tools/%s: %w", name, name, err)
		}
		t.paths[name] = strings.TrimSpace(string(out))
	}
	t.environment = []string{
		"HOME=" + dir, "TMPDIR=" + dir, "PATH=" + os.Getenv("PATH"),
		"DOCKER_CONFIG=" + filepath.Join(dir, "docker"),
		// Helm writes the date of a push in the machine's time zone.
		"TZ=UTC", "SOURCE_DATE_EPOCH=" + strconv.FormatInt(c.created.Unix(), 10),
		// The password of a key that is deleted after the run.
		"COSIGN_PASSWORD=" + rand.Text(),
		// Nothing listens there. Loopback uses no proxy, so only connections to other machines fail.
		"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9",
	}
	return t, nil
}

// run returns the output of a tool.
func (t *tools) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, t.paths[name], args...)
	cmd.Env = t.environment
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
