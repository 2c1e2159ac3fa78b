// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/callguard/callguard/hack/oci"
)

// A manifest in krew's format: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/.
const wantManifest = `apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: calls
spec:
  version: v1.2.3
  homepage: https://github.com/callguard/callguard
  shortDescription: Show and drain the calls that pods hold
  description: |
    Shows which calls of LiveKit voice agents keep a node from being drained and for
    how long, and drains a node without losing one. Needs callguard in the cluster.
  platforms:
    - selector:
        matchLabels:
          arch: amd64
          os: linux
      uri: https://github.com/callguard/callguard/releases/download/v1.2.3/one.tar.gz
      sha256: aa
      files:
        - from: kubectl-calls
          to: .
        - from: LICENSE
          to: .
        - from: THIRD_PARTY_NOTICES
          to: .
      bin: kubectl-calls
    - selector:
        matchLabels:
          arch: amd64
          os: windows
      uri: https://github.com/callguard/callguard/releases/download/v1.2.3/two.tar.gz
      sha256: bb
      files:
        - from: kubectl-calls.exe
          to: .
        - from: LICENSE
          to: .
        - from: THIRD_PARTY_NOTICES
          to: .
      bin: kubectl-calls.exe
`

func TestKrewManifest(t *testing.T) {
	got, err := krewManifest("1.2.3", []archive{
		{oci.Platform{System: "linux", Arch: "amd64"}, "one.tar.gz", "aa"},
		{oci.Platform{System: "windows", Arch: "amd64"}, "two.tar.gz", "bb"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantManifest, string(got)); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
}

// pluginCheckout creates a repository that contains only a plugin.
func pluginCheckout(t *testing.T) *checkout {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                    "module github.com/callguard/callguard\n\ngo 1.26\n",
		"LICENSE":                   "the licence\n",
		"THIRD_PARTY_NOTICES":       "those of others\n",
		"cmd/kubectl-calls/main.go": "package main\n\nfunc main() {}\n",
	} {
		if err := writeFile(filepath.Join(dir, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return &checkout{
		dir: dir, created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		licences: map[string]string{"stdlib@" + strings.TrimPrefix(oci.Toolchain, "go"): "BSD-3-Clause"},
	}
}

func TestPluginIsPackedTheSameTwice(t *testing.T) {
	here := oci.Platform{System: "linux", Arch: oci.LocalArch}
	var sums []string
	for range 2 {
		dir := t.TempDir()
		if err := makePlugin(t.Context(), pluginCheckout(t), "1.2.3", dir, t.TempDir(), []oci.Platform{here}); err != nil {
			t.Fatal(err)
		}
		text, err := checksums(dir)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, text)
		checkPlugin(t, dir, here)
	}
	if diff := cmp.Diff(sums[0], sums[1]); diff != "" {
		t.Errorf("checksums from one folder and from another (-one +another):\n%s", diff)
	}
}

// checkPlugin checks what krew would download, and the bill of materials.
func checkPlugin(t *testing.T, dir string, p oci.Platform) {
	t.Helper()
	name := "kubectl-calls_v1.2.3_" + p.System + "_" + p.Arch + ".tar.gz"
	if diff := cmp.Diff(map[string]int64{"kubectl-calls": 0o755, "LICENSE": 0o644, "THIRD_PARTY_NOTICES": 0o644}, tarModes(t, filepath.Join(dir, name))); diff != "" {
		t.Errorf("files of %s and their modes (-want +got):\n%s", name, diff)
	}
	sum, err := fileSum(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "calls.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(manifest), name+"\n      sha256: "+sum+"\n") {
		t.Errorf("the krew manifest does not name %s with %s:\n%s", name, sum, manifest)
	}
	file, err := os.Open(filepath.Join(dir, "kubectl-calls_v1.2.3.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	contents, err := spdxjson.Read(file)
	if err != nil {
		t.Fatalf("the bill of materials is no SPDX: %v", err)
	}
	var names []string
	for _, p := range contents.Packages {
		names = append(names, p.PackageName)
	}
	if diff := cmp.Diff([]string{"kubectl-calls", name, "kubectl-calls", "stdlib"}, names); diff != "" {
		t.Errorf("parts of the bill of materials (-want +got):\n%s", diff)
	}
}

func tarModes(t *testing.T, name string) map[string]int64 {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int64{}
	for in := tar.NewReader(unzipped); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return modes
		}
		if err != nil {
			t.Fatal(err)
		}
		modes[h.Name] = h.Mode
	}
}
