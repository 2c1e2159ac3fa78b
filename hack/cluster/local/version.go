// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// versionVariable is the environment variable that selects another Kubernetes version than
// that of hack/tools/kubernetes for all instances, such as v1.34.4.
const versionVariable = "CALLGUARD_KUBERNETES"

var (
	releases = regexp.MustCompile(`^v1\.(\d+\.\d+)$`)
	moduleOf = regexp.MustCompile(`(?m)^module .*$`)
	// staging is a replacement that is valid only within Kubernetes' own repository.
	staging = regexp.MustCompile(`=> \./staging/src/(\S+)`)
)

// kubernetesModule returns the folder of a module like hack/tools/kubernetes, of another
// version. It is Kubernetes' own go.mod, with the releases of its staging modules, and so
// builds with exactly the dependencies of that release.
func kubernetesModule(ctx context.Context, version string) (string, error) {
	release := releases.FindStringSubmatch(version)
	if release == nil {
		return "", fmt.Errorf("%s is %q; name a release, such as v1.34.4", versionVariable, version)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "modules", moduleKubernetes+"-"+version)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the folder of module Kubernetes %s: %w", version, err)
	}
	raw, err := goOutput(ctx, parent, "mod", "download", "-json", "k8s.io/kubernetes@"+version)
	if err != nil {
		return "", fmt.Errorf("cannot have Kubernetes %s: %w", version, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(raw, &module); err != nil {
		return "", fmt.Errorf("cannot have Kubernetes %s: %w", version, err)
	}
	unfinished, err := os.MkdirTemp(parent, "unfinished-")
	if err != nil {
		return "", fmt.Errorf("cannot make module Kubernetes %s: %w", version, err)
	}
	defer func() { _ = os.RemoveAll(unfinished) }()
	mod, err := os.ReadFile(filepath.Join(module.Dir, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("cannot read Kubernetes %s: %w", version, err)
	}
	sum, err := os.ReadFile(filepath.Join(module.Dir, "go.sum"))
	if err != nil {
		return "", fmt.Errorf("cannot read Kubernetes %s: %w", version, err)
	}
	mod = staging.ReplaceAll(moduleOf.ReplaceAll(mod, []byte("module kubernetes")), []byte("=> $1 v0."+release[1]))
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s\nrequire k8s.io/kubernetes %s\n", mod, version)
	for _, program := range []string{programAPIServer, programControllerManager, programScheduler, programKubectl} {
		fmt.Fprintf(&text, "tool k8s.io/kubernetes/cmd/%s\n", program)
	}
	for name, data := range map[string][]byte{"go.mod": text.Bytes(), "go.sum": sum} {
		if err := os.WriteFile(filepath.Join(unfinished, name), data, 0o600); err != nil {
			return "", fmt.Errorf("cannot make module Kubernetes %s: %w", version, err)
		}
	}
	if _, err := goOutput(ctx, unfinished, "mod", "tidy"); err != nil {
		return "", fmt.Errorf("cannot make module Kubernetes %s: %w", version, err)
	}
	if err := os.Rename(unfinished, dir); err != nil && !errors.Is(err, fs.ErrExist) { // another process was first
		return "", fmt.Errorf("cannot make module Kubernetes %s: %w", version, err)
	}
	return dir, nil
}
