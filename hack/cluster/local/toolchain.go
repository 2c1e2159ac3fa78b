// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/callguard/callguard/hack/cluster/clock"
)

// The modules under hack/tools, each in its own folder, so that their dependencies stay out of the product's go.mod.
const (
	moduleKubernetes = "kubernetes"
	moduleEtcd       = "etcd"
	moduleKwok       = "kwok"
	moduleLiveKit    = "livekit"
	moduleCoreDNS    = "coredns"
	// moduleKubelets is what real nodes need in addition: simulated ones have neither kubelet nor kube-proxy.
	moduleKubelets = "kubelets"
)

// clocked names the programs of a module whose clocks can be set wrong.
func clocked(module string) string { return module + "-clock" }

// The programs that are built from them.
const (
	programAPIServer         = "kube-apiserver"
	programControllerManager = "kube-controller-manager"
	programScheduler         = "kube-scheduler"
	programKubectl           = "kubectl"
	programEtcd              = "etcd"
	programKwok              = "kwok"
	programLiveKit           = "livekit-server"
)

// toolModule is one module under hack/tools and what is built from it.
type toolModule struct {
	name string // of its programs' folder
	// folder is the module's folder under hack/tools.
	folder string
	// program is the name of the module's only program. If empty, every tool has the name of its folder.
	program string
	// only restricts what is built. If empty, everything is built.
	only []string
	// clock builds programs whose clocks can be set wrong by their environment.
	clock bool
}

// toolModules lists the modules that an instance runs. One with real nodes runs all of them.
func toolModules(cfg Config) []toolModule {
	modules := []toolModule{
		{name: moduleEtcd, folder: moduleEtcd, program: programEtcd},
		{name: moduleKwok, folder: moduleKwok, program: programKwok},
		{name: moduleLiveKit, folder: moduleLiveKit, program: programLiveKit},
		{
			name: moduleKubernetes, folder: moduleKubernetes,
			only: []string{programAPIServer, programControllerManager, programScheduler, programKubectl},
		},
	}
	if cfg.Kubelets {
		modules = append(modules,
			toolModule{name: moduleKubelets, folder: moduleKubernetes, only: []string{programKubelet, KubeProxy}},
			toolModule{name: moduleCoreDNS, folder: moduleCoreDNS, program: CoreDNS})
	}
	if cfg.Clocks != (Clocks{}) {
		modules = append(modules,
			toolModule{name: clocked(moduleKwok), folder: moduleKwok, program: programKwok, clock: true},
			toolModule{
				name: clocked(moduleKubernetes), folder: moduleKubernetes, clock: true,
				only: []string{programAPIServer, programControllerManager, programScheduler},
			})
	}
	return modules
}

// buildPlan is everything that determines the result of a build.
type buildPlan struct {
	toolModule
	dir      string // the module's source
	packages []string
	ldflags  string
	sum      string
	estimate *estimate // of all builds that this one belongs to; nil for none
}

// goMod is the part of `go mod edit -json` that is read.
type goMod struct {
	Tool    []struct{ Path string }
	Require []struct{ Path, Version string }
}

// planBuild reads a tool module. The sum covers its go.mod and go.sum, the Go that builds it and the flags.
func planBuild(ctx context.Context, repository string, m toolModule) (buildPlan, error) {
	p := buildPlan{toolModule: m, dir: filepath.Join(repository, "hack", "tools", m.folder), ldflags: "-s -w"}
	if version := os.Getenv(versionVariable); version != "" && m.folder == moduleKubernetes {
		var err error
		if p.dir, err = kubernetesModule(ctx, version); err != nil {
			return p, err
		}
	}
	raw, err := goOutput(ctx, p.dir, "mod", "edit", "-json")
	if err != nil {
		return p, err
	}
	var mod goMod
	if err := json.Unmarshal(raw, &mod); err != nil {
		return p, fmt.Errorf("cannot read the tools of module %s: %w", m.name, err)
	}
	for _, t := range mod.Tool {
		if len(m.only) == 0 || slices.Contains(m.only, path.Base(t.Path)) {
			p.packages = append(p.packages, t.Path)
		}
	}
	if len(p.packages) == 0 || (p.program != "" && len(p.packages) != 1) {
		return p, fmt.Errorf("module %s names %d tools: cannot tell what to build; correct the tool lines of %s", m.name, len(p.packages), filepath.Join(p.dir, "go.mod"))
	}
	for _, r := range mod.Require {
		if r.Path == "k8s.io/kubernetes" {
			p.ldflags += " " + kubernetesVersionFlags(r.Version)
		}
	}
	environment, err := goOutput(ctx, p.dir, "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return p, err
	}
	sum := sha256.New()
	sources, err := filepath.Glob(filepath.Join(p.dir, "*.go"))
	if err != nil {
		return p, fmt.Errorf("cannot read module %s: %w", m.name, err)
	}
	for _, file := range append([]string{filepath.Join(p.dir, "go.mod"), filepath.Join(p.dir, "go.sum")}, sources...) {
		data, err := os.ReadFile(file)
		if err != nil {
			return p, fmt.Errorf("cannot read module %s: %w", m.name, err)
		}
		_, _ = fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(file), len(data), data)
	}
	_, _ = fmt.Fprintf(sum, "%s%q", environment, p.arguments("OUT"))
	if p.clock {
		_, _ = io.WriteString(sum, clock.Sum())
	}
	p.sum = hex.EncodeToString(sum.Sum(nil))[:16]
	return p, nil
}

// kubernetesVersionFlags makes the programs report the version of the module they are built from.
func kubernetesVersionFlags(version string) string {
	const variable = "-X k8s.io/component-base/version."
	major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	return fmt.Sprintf("%sgitVersion=%s %sgitMajor=%s %sgitMinor=%s", variable, version, variable, major, variable, minor)
}

// arguments returns those of the go command that builds the whole plan into a folder, with more flags.
func (p buildPlan) arguments(out string, more ...string) []string {
	if p.program != "" {
		out = filepath.Join(out, p.program)
	} else {
		out += string(filepath.Separator)
	}
	return slices.Concat([]string{"build", "-v", "-trimpath", "-buildvcs=false", "-ldflags=" + p.ldflags, "-o", out}, more, p.packages)
}

// programs returns the names of what is built.
func (p buildPlan) programs() []string {
	if p.program != "" {
		return []string{p.program}
	}
	var names []string
	for _, pkg := range p.packages {
		names = append(names, path.Base(pkg))
	}
	return names
}

// buildEnvironment is the caller's environment, without cgo and without a workspace, so that only the module decides.
func buildEnvironment() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
}

func goOutput(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, buildEnvironment()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot run go %s in %s: %w: %s", strings.Join(args, " "), dir, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
