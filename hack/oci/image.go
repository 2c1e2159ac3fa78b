// SPDX-License-Identifier: Apache-2.0

// Package oci builds container images from files, without a container engine: the same files produce the same image,
// bit for bit. It pulls and runs nothing.
package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Nobody is the user of images that set none: the one that distroless images call nonroot.
const Nobody = "65532:65532"

// Image describes an image of one layer.
type Image struct {
	// Files maps paths in the image to paths on this machine. A folder includes everything below it; symbolic links are
	// kept as they are.
	Files map[string]string
	// Text has further files by path, readable by all.
	Text       map[string]string
	Entrypoint []string
	Env        []string
	WorkingDir string
	// User is Nobody when empty.
	User   string
	Labels map[string]string
	// Created is the creation date of the image. The zero time is 1970.
	Created time.Time
	// Platform is this machine's if nil.
	Platform *v1.Platform
}

// Write writes a file in the format of docker save, which ctr, kind and k3s can import, and returns the image's
// digest.
func (i Image) Write(file, ref string) (digest string, err error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", fmt.Errorf("image name is %q: %w; use one such as callguard:dev", ref, err)
	}
	image, err := i.Build()
	if err != nil {
		return "", err
	}
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		return "", fmt.Errorf("cannot write the image %s: %w", ref, err)
	}
	hash, err := image.Digest()
	return hash.String(), err
}

// Build builds the image.
func (i Image) Build() (v1.Image, error) {
	if i.Created.IsZero() {
		i.Created = time.Unix(0, 0).UTC()
	}
	if i.User == "" {
		i.User = Nobody
	}
	if i.Platform == nil {
		i.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	// The layer is packed again each time it is read, so that a large one is never held in memory.
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(i.pack(w)) }()
		return r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot pack the files of an image: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("cannot make an image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("cannot make an image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = i.Platform.OS, i.Platform.Architecture, i.Platform.Variant
	config.Created = v1.Time{Time: i.Created}
	config.Config = v1.Config{Entrypoint: i.Entrypoint, Env: i.Env, WorkingDir: i.WorkingDir, User: i.User, Labels: i.Labels}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("cannot make an image: %w", err)
	}
	return image, nil
}

// entry is one file of the layer.
type entry struct {
	from string // on this machine; empty: text
	text string
	mode fs.FileMode
	link string
}

// pack writes the layer: sorted, owned by root, dated by Created.
func (i Image) pack(w io.Writer) error {
	entries, err := i.entries()
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, at := range slices.Sorted(maps.Keys(entries)) {
		if err := i.packOne(out, at, entries[at]); err != nil {
			return fmt.Errorf("cannot pack %s: %w", at, err)
		}
	}
	return out.Close()
}

func (i Image) packOne(out *tar.Writer, at string, e entry) error {
	h := &tar.Header{Name: strings.TrimPrefix(at, "/"), ModTime: i.Created, Mode: int64(e.mode.Perm()), Format: tar.FormatPAX}
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		return out.WriteHeader(h)
	case e.link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		return out.WriteHeader(h)
	case e.from == "":
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.text))
		err := out.WriteHeader(h)
		_, werr := io.Copy(out, bytes.NewBufferString(e.text))
		return errors.Join(err, werr)
	}
	file, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(out, file)
	return err
}

// entries lists every file and the folders above it.
func (i Image) entries() (map[string]entry, error) {
	all := map[string]entry{}
	for at, text := range i.Text {
		all[at] = entry{text: text, mode: 0o644}
	}
	for at, from := range i.Files {
		err := filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if file == from && d.Type()&fs.ModeSymlink != 0 { // use its target
				if info, err = os.Stat(file); err != nil {
					return err
				}
			}
			below, err := filepath.Rel(from, file)
			if err != nil {
				return err
			}
			e := entry{from: file, mode: readable(info.Mode())}
			if info.Mode()&fs.ModeSymlink != 0 {
				e.from = ""
				if e.link, err = os.Readlink(file); err != nil {
					return err
				}
			}
			all[path.Join(at, filepath.ToSlash(below))] = e
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read what belongs at %s: %w", at, err)
		}
	}
	for at := range maps.Clone(all) {
		for dir := path.Dir(at); dir != "/" && dir != "."; dir = path.Dir(dir) {
			if _, there := all[dir]; !there {
				all[dir] = entry{mode: fs.ModeDir | 0o755}
			}
		}
	}
	return all, nil
}

// readable returns a mode that does not depend on the umask of whoever created the file.
func readable(m fs.FileMode) fs.FileMode {
	if m.IsDir() || m&0o100 != 0 {
		return m.Type() | 0o755
	}
	return m.Type() | 0o644
}
