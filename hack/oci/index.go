// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Index combines images for several platforms into one. Whoever pulls it gets the one for their platform.
func Index(images ...Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, i := range images {
		image, err := i.Build()
		if err != nil {
			return nil, err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("cannot make an image: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return index, nil
}

// WriteArchive writes an image for several platforms to a file, in the format that podman and skopeo call
// oci-archive. The same image and date produce the same file. The archive names the image ref, such as a tag.
func WriteArchive(file string, index v1.ImageIndex, ref string, created time.Time) error {
	dir, err := os.MkdirTemp(filepath.Dir(file), ".archive-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for %s: %w", file, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	content, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})
	if err := content.AppendIndex(index, named); err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	files := map[string]string{}
	for _, name := range []string{"oci-layout", "index.json", "blobs"} {
		files["/"+name] = filepath.Join(dir, name)
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	err = Image{Files: files, Created: created}.pack(out)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	return nil
}
