// SPDX-License-Identifier: Apache-2.0

// Package nodeagent provides the real LiveKit Agents for Node to tests: installed from npm into the user's cache folder,
// once for each package-lock.json, and packed into a container image. The agents' code is in the .mjs files, none of which
// is callguard's. The package runs nothing itself.
package nodeagent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/callguard/callguard/hack/oci"
)

// Entry files.
const (
	// Plain is an ordinary agent.
	Plain = "agent.mjs"
	// Launcher starts the plain agent, in the image only, and is as strict as those of LiveKit's starters.
	Launcher = "launcher.mjs"
	// Snippet is an agent without call-gate, as in docs/opt-in.md.
	Snippet = "snippet.mjs"
	// MCP is an MCP server for an agent.
	MCP = "mcp.mjs"
)

//go:embed agent.mjs mcp.mjs snippet.mjs package.json package-lock.json
var files embed.FS

//go:embed launcher.mjs
var launcher string

// Install returns a folder with the agents' modules and entry files.
func Install(ctx context.Context, progress io.Writer) (string, error) {
	sum := sha256.New()
	names, err := fs.Glob(files, "*")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		raw, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(sum, "%s %d\n%s", name, len(raw), raw)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the user's cache folder: %w; set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(cache, "callguard", "agent-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), "agent-unfinished-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(unfinished) }()
	if err := os.CopyFS(unfinished, files); err != nil {
		return "", err
	}
	_, _ = fmt.Fprintln(progress, "installing LiveKit Agents for Node, once (290 MB)")
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = unfinished
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot install LiveKit Agents for Node: %w; install Node 20 or newer with npm\n%s", err, out)
	}
	if err := os.Rename(unfinished, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // another test installed it first
			return "", err
		}
	}
	return dir, nil
}

// Image is the plain agent, or another command, with Node and the libraries of this machine that it needs. dir is what
// Install returned. It resembles LiveKit's starter images: its user has a name, the number 10001, and a home with the
// application and what its build downloaded; and a launcher starts it.
func Image(ctx context.Context, dir string) (oci.Image, error) {
	image := oci.Image{
		Files: map[string]string{"/app": dir}, WorkingDir: "/app", User: "appuser",
		Text: map[string]string{
			"/etc/passwd":                  "root:x:0:0:root:/:/sbin/nologin\nappuser:x:10001:10001:appuser:/app:/sbin/nologin\n",
			"/app/.cache/models/turns.txt": "downloaded\n", "/app/" + Launcher: launcher,
		},
		Entrypoint: []string{"/usr/bin/node", Launcher, "start"}, Env: []string{"NODE_ENV=production", "HOST=0.0.0.0"},
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return image, fmt.Errorf("cannot find Node: %w; install Node 20 or newer with npm", err)
	}
	image.Files["/usr/bin/node"] = node
	native := []string{node}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".node") {
			native = append(native, path)
		}
		return err
	})
	if err != nil {
		return image, fmt.Errorf("cannot list the agent's files: %w", err)
	}
	library := regexp.MustCompile(`(/\S+) \(0x`)
	for _, program := range native {
		// It fails for files built for another machine, which are not loaded here either.
		out, _ := exec.CommandContext(ctx, "ldd", program).Output()
		for line := range bytes.Lines(out) {
			if m := library.FindSubmatch(line); m != nil {
				image.Files[string(m[1])] = string(m[1])
			}
		}
	}
	return image, nil
}
