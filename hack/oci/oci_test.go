// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// program creates a folder with one program, as if built at that time by somebody with that
// umask.
func program(t *testing.T, mode os.FileMode, built time.Time) Image {
	t.Helper()
	file := filepath.Join(t.TempDir(), "guard")
	if err := os.WriteFile(file, []byte("a program"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, built, built); err != nil {
		t.Fatal(err)
	}
	return Image{Files: map[string]string{"/guard": file}}
}

func on(i Image, arch string) Image {
	i.Platform = &v1.Platform{OS: "linux", Architecture: arch}
	return i
}

func TestIndexNamesEachPlatformAndIsTheSameTwice(t *testing.T) {
	one := program(t, 0o755, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	two := program(t, 0o700, time.Date(2026, 2, 2, 0, 0, 0, 0, time.UTC))
	created := time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)

	var digests []string
	var archives [][]byte
	for _, image := range []Image{one, two} {
		index, err := Index(on(image, "amd64"), on(image, "arm64"))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var platforms []string
		for _, m := range manifest.Manifests {
			platforms = append(platforms, m.Platform.String())
		}
		if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
			t.Errorf("platforms (-want +got):\n%s", diff)
		}
		digest, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest.String())

		file := filepath.Join(t.TempDir(), "image.tar")
		if err := WriteArchive(file, index, "1.2.3", created); err != nil {
			t.Fatal(err)
		}
		archive, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
	}
	if digests[0] != digests[1] {
		t.Errorf("the same program made %s and %s, want one digest", digests[0], digests[1])
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same image made two archives, want one")
	}
}
