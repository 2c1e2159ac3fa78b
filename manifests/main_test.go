// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// helmProgram is the path of Helm, which the go command builds and caches.
var helmProgram string

func TestMain(m *testing.M) {
	build := exec.Command("go", "tool", "-n", "-modfile=hack/tools/helm/go.mod", "helm")
	build.Dir = ".."
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot build Helm: %v\n", err)
		os.Exit(1)
	}
	helmProgram = strings.TrimSpace(string(out))
	os.Exit(m.Run())
}
