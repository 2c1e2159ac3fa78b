// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Platform is a platform that programs are built for, with Go's names.
type Platform struct{ System, Arch string }

// Platforms are those that kubectl-calls is released for. The other programs run on Linux only.
func Platforms() []Platform {
	return []Platform{{"darwin", "amd64"}, {"darwin", "arm64"}, {"linux", "amd64"}, {"linux", "arm64"}, {"windows", "amd64"}}
}

// Programs builds every program of this repository for Linux on arch, such as amd64, into a folder, and returns the
// image that contains all of them and their licences. repository is the folder of the checkout, and version is what the
// programs report. The files must stay until the image is written.
func Programs(ctx context.Context, repository, dir, arch, version string) (Image, error) {
	image := Image{Files: map[string]string{}, Text: map[string]string{}, Labels: labels(), Platform: &v1.Platform{OS: "linux", Architecture: arch}}
	if err := Build(ctx, repository, dir+string(filepath.Separator), "linux", arch, version, "./cmd/..."); err != nil {
		return image, err
	}
	programs, err := os.ReadDir(dir)
	if err != nil {
		return image, fmt.Errorf("cannot list the programs: %w", err)
	}
	for _, p := range programs {
		image.Files["/"+p.Name()] = filepath.Join(dir, p.Name())
	}
	for _, name := range Licences() {
		text, err := os.ReadFile(filepath.Join(repository, name))
		if err != nil {
			return image, fmt.Errorf("cannot read what the programs are licensed under: %w", err)
		}
		image.Text["/"+name] = string(text)
	}
	return image, nil
}

// Development is the version of unreleased builds.
const Development = "dev"

// Licences are the files of a checkout that are shipped with its programs.
func Licences() []string { return []string{"LICENSE", "THIRD_PARTY_NOTICES"} }

// Build builds packages of a checkout so that the same source and the same Go produce the same bytes, wherever the
// checkout is. output is a file, or a folder with a separator at its end.
func Build(ctx context.Context, repository, output, system, arch, version string, packages ...string) error {
	output, err := filepath.Abs(output)
	if err != nil {
		return fmt.Errorf("cannot tell where %s is: %w", output, err)
	}
	args := append([]string{"build"}, buildFlags(version)...)
	args = append(append(args, "-o", output), packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = repository
	cmd.Env = append(append(os.Environ(), buildEnvironment()...), "GOOS="+system, "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the programs for %s/%s: %w\n%s", system, arch, err, out)
	}
	return nil
}

// buildFlags, buildEnvironment and labels are in the Dockerfile, too.
func buildFlags(version string) []string {
	return []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid= -X github.com/callguard/callguard/manifests.version=" + version}
}

func buildEnvironment() []string {
	return []string{"CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=" + Toolchain}
}

// Toolchain is the Go version that builds releases, the same as in go.mod: a patch release without known
// vulnerabilities. The go command downloads it, whatever its own version.
const Toolchain = "go1.26.11"

func labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "callguard",
		"org.opencontainers.image.source":   Source,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

// Source is where callguard's source is published.
const Source = "https://github.com/callguard/callguard"

// LocalArch is the architecture of this machine, as Go and OCI call it.
const LocalArch = runtime.GOARCH
