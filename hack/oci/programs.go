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

// Programs builds every program of this repository for Linux on arch, such as amd64,
// into a folder, and returns the image that holds them all. repository is the
// folder of the checkout. The files must stay until the image is written.
func Programs(ctx context.Context, repository, dir, arch string) (Image, error) {
	image := Image{Files: map[string]string{}, Platform: &v1.Platform{OS: "linux", Architecture: arch}}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", dir+string(filepath.Separator), "./cmd/...")
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return image, fmt.Errorf("cannot build the programs for %s: %w\n%s", arch, err, out)
	}
	programs, err := os.ReadDir(dir)
	if err != nil {
		return image, fmt.Errorf("cannot list the programs: %w", err)
	}
	for _, p := range programs {
		image.Files["/"+p.Name()] = filepath.Join(dir, p.Name())
	}
	image.Labels = map[string]string{
		"org.opencontainers.image.title":    "callguard",
		"org.opencontainers.image.source":   "https://github.com/callguard/callguard",
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	return image, nil
}

// LocalArch is the architecture of this machine, as Go and OCI call it.
const LocalArch = runtime.GOARCH
