// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/callguard/callguard/hack/licences"
	"github.com/callguard/callguard/hack/oci"
)

const modulePath = "github.com/callguard/callguard"

// release is the state of one run.
type release struct {
	options
	source   *checkout
	tools    *tools
	registry *loopback
	out      io.Writer
}

// imageName is the name under which the image will be published.
func (r *release) imageName() string { return r.target + "/callguard" }

// pushed is something in a registry.
type pushed struct {
	// path is its path, the same in any registry.
	path, digest string
}

// made is the result of making a release once.
type made struct {
	// sums is the content of checksums.txt.
	sums  string
	image pushed
	// unsigned is the image for one platform: pushed, but not signed by itself.
	unsigned pushed
	charts   map[string]pushed
	files    map[string]string
}

// rehearse makes a release, signs it and checks it. It leaves a complete result or none.
func rehearse(ctx context.Context, o options, out io.Writer) (err error) {
	if err := replaceable(o.output); err != nil {
		return err
	}
	private, err := os.MkdirTemp("", "callguard-release-")
	if err != nil {
		return fmt.Errorf("cannot make a folder for the release: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()

	r := &release{options: o, out: out}
	if r.source, err = openCheckout(ctx, ".", os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	r.say("release    %s of %.12s, dated %s", r.version, r.source.revision, r.source.created.Format("2006-01-02 15:04:05Z"))
	if r.source.changed {
		r.say("WARNING    this checkout has changes that are not committed, and the release has them, too")
	}
	linked, err := licences.Linked(ctx, r.source.dir, oci.Platforms(), "./cmd/...")
	if err != nil {
		return err
	}
	r.source.licences = byModule(linked)
	r.say("tools      building Helm and cosign, once for this version (minutes when nothing is cached)")
	if r.tools, err = buildTools(ctx, r.source, filepath.Join(private, "home")); err != nil {
		return err
	}
	if r.registry, err = startRegistry(filepath.Join(private, "blobs")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.registry.stop()) }()

	dir := filepath.Join(private, "release")
	first, err := r.makeAll(ctx, dir, filepath.Join(private, "work"))
	if err != nil {
		return err
	}
	if r.twice {
		second, err := r.makeAll(ctx, filepath.Join(private, "release-again"), filepath.Join(private, "work-again"))
		if err != nil {
			return err
		}
		if err := same(first.sums, second.sums); err != nil {
			return err
		}
		r.say("twice      the same %s from another folder", checksumsFile)
	}
	if err := r.signAll(ctx, first, dir, private); err != nil {
		return err
	}
	if err := r.checkAll(ctx, first, filepath.Join(private, "pulled")); err != nil {
		return err
	}
	if err := replace(o.output, dir); err != nil {
		return err
	}
	r.say("done       %s", o.output)
	_, err = io.WriteString(out, "\n"+first.sums)
	return err
}

// makeAll makes everything into dir and pushes what belongs into a registry. Other files go to a folder for
// leftovers.
func (r *release) makeAll(ctx context.Context, dir, work string) (*made, error) {
	for _, d := range []string{dir, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make a folder for the release: %w", err)
		}
	}
	m := &made{charts: map[string]pushed{}, files: map[string]string{}}
	if err := r.makeImage(ctx, m, dir, work); err != nil {
		return nil, err
	}
	digests := []string{r.published(m.image)}
	for _, c := range charts() {
		file, err := r.packageChart(ctx, c, m.image.digest, dir, filepath.Join(work, "charts"))
		if err != nil {
			return nil, err
		}
		digest, err := r.pushChart(ctx, file)
		if err != nil {
			return nil, err
		}
		m.charts[c.name], m.files[c.name] = pushed{"charts/" + c.name, digest}, file
		digests = append(digests, r.published(m.charts[c.name]))
		r.say("chart      %s", r.published(m.charts[c.name]))
	}
	if err := makePlugin(ctx, r.source, r.version, dir, filepath.Join(work, "plugin"), oci.Platforms()); err != nil {
		return nil, err
	}
	r.say("plugin     %s v%s and its krew manifest", pluginProgram, r.version)
	if err := writeFile(filepath.Join(dir, "digests.txt"), []byte(strings.Join(digests, "\n")+"\n")); err != nil {
		return nil, err
	}
	how, err := provenanceOf(r.source, r.version, r.target)
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, provenanceFile), how); err != nil {
		return nil, err
	}
	sums, err := checksums(dir)
	if err != nil {
		return nil, err
	}
	m.sums = sums
	return m, writeFile(filepath.Join(dir, checksumsFile), []byte(m.sums))
}

// makeImage builds the programs for each platform, combines them into one image, and writes its bill of
// materials.
func (r *release) makeImage(ctx context.Context, m *made, dir, work string) error {
	var images []oci.Image
	for _, arch := range []string{"amd64", "arm64"} {
		programs := filepath.Join(work, "programs", arch)
		if err := os.MkdirAll(programs, 0o755); err != nil {
			return fmt.Errorf("cannot make a folder for the programs: %w", err)
		}
		image, err := oci.Programs(ctx, r.source.dir, programs, arch, r.version)
		if err != nil {
			return err
		}
		image.Created = r.source.created
		image.Labels["org.opencontainers.image.version"] = r.version
		image.Labels["org.opencontainers.image.revision"] = r.source.revision
		images = append(images, image)
	}
	index, err := oci.Index(images...)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("cannot tell the digest of the image: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("cannot tell what the image holds: %w", err)
	}
	m.image = pushed{"callguard", digest.String()}
	m.unsigned = pushed{"callguard", manifest.Manifests[0].Digest.String()}
	if err := oci.WriteArchive(filepath.Join(dir, r.file("image.tar")), index, r.version, r.source.created); err != nil {
		return err
	}
	tag, err := name.NewTag(r.registry.host + "/" + m.image.path + ":" + r.version)
	if err != nil {
		return fmt.Errorf("cannot name the image: %w", err)
	}
	if err := remote.WriteIndex(tag, index, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("cannot push the image to %s: %w", tag, err)
	}
	r.say("image      %s for linux/amd64, linux/arm64", r.published(m.image))
	return r.writeImageBill(manifest, images, m.image, filepath.Join(dir, r.file("image.spdx.json")))
}

// writeImageBill lists the programs and modules in the image, by platform.
func (r *release) writeImageBill(manifest *v1.IndexManifest, images []oci.Image, index pushed, file string) error {
	container := func(name, digest string) part {
		return part{
			name: name, version: r.version, purpose: "CONTAINER", sum: strings.TrimPrefix(digest, "sha256:"), licence: "Apache-2.0",
			url: "pkg:oci/callguard@" + strings.ReplaceAll(digest, ":", "%3A") + "?repository_url=" + r.imageName() + "&tag=" + r.version,
		}
	}
	whole := container("callguard", index.digest)
	contents := newBill(whole, r.source)
	for i, image := range images {
		one := contents.contain(contents.add(whole), container("callguard "+image.Platform.String(), manifest.Manifests[i].Digest.String()))
		for _, at := range slices.Sorted(maps.Keys(image.Files)) {
			if err := contents.program(one, image.Files[at]); err != nil {
				return err
			}
		}
	}
	return contents.write(file)
}

// signAll signs image, charts and checksums.
func (r *release) signAll(ctx context.Context, m *made, dir, private string) error {
	keys := filepath.Join(private, "keys")
	if err := os.Mkdir(keys, 0o700); err != nil {
		return fmt.Errorf("cannot make a folder for the keys of this run: %w", err)
	}
	s, err := newSigner(ctx, r.tools, keys)
	if err != nil {
		return err
	}
	refs := []string{r.here(m.image)}
	for _, c := range charts() {
		refs = append(refs, r.here(m.charts[c.name]))
	}
	for _, ref := range refs {
		if err := s.sign(ctx, ref); err != nil {
			return err
		}
		if err := s.verify(ctx, ref); err != nil {
			return err
		}
		if err := s.attest(ctx, ref, "slsaprovenance1", filepath.Join(dir, provenanceFile)); err != nil {
			return err
		}
	}
	if err := s.attest(ctx, r.here(m.image), "spdxjson", filepath.Join(dir, r.file("image.spdx.json"))); err != nil {
		return err
	}
	if err := s.refuses(ctx, r.here(m.unsigned)); err != nil {
		return err
	}
	r.say("signed     image and charts, by digest, with their provenance; cosign verifies them and refuses what is not signed")
	if err := s.signFile(ctx, filepath.Join(dir, checksumsFile)); err != nil {
		return err
	}
	r.say("signed     %s; cosign verifies it", checksumsFile)
	return nil
}

// checkAll pulls and checks what was pushed.
func (r *release) checkAll(ctx context.Context, m *made, work string) error {
	ref, err := name.NewDigest(r.here(m.image))
	if err != nil {
		return fmt.Errorf("cannot name the image: %w", err)
	}
	if _, err := remote.Index(ref, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("cannot pull the image: %w", err)
	}
	image := r.imageName() + ":" + r.version + "@" + m.image.digest
	for _, c := range charts() {
		if err := r.checkChart(ctx, c, m.charts[c.name].digest, m.files[c.name], image, filepath.Join(work, c.name)); err != nil {
			return err
		}
	}
	r.say("pulled     image and charts, by digest; the charts are those that were made, and install this image")
	return nil
}

// here is its reference in this run's registry, published the one in a real release's.
func (r *release) here(p pushed) string { return r.registry.host + "/" + p.path + "@" + p.digest }

func (r *release) published(p pushed) string {
	return r.target + "/" + p.path + ":" + r.version + "@" + p.digest
}

// file returns the name of a file of the image.
func (r *release) file(what string) string { return "callguard-" + r.version + "-" + what }

func (r *release) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

// same compares two checksums files and names the differences.
func same(one, two string) error {
	if one == two {
		return nil
	}
	var differ []string
	for line := range strings.Lines(two) {
		if !strings.Contains(one, line) {
			differ = append(differ, strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]))
		}
	}
	return fmt.Errorf("made twice, these are not the same: %s; whatever is made of a commit must not depend on time, folder or order", strings.Join(differ, ", "))
}

// replaceable keeps a mistake in --output from deleting somebody's files.
func replaceable(output string) error {
	files, err := os.ReadDir(output)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read --output %s: %w; use a folder such as _output/release", output, err)
	}
	for _, f := range files {
		if f.Name() == checksumsFile {
			return nil
		}
	}
	if len(files) > 0 {
		return fmt.Errorf("--output %s has files of something other than a release; use a folder such as _output/release", output)
	}
	return nil
}

// replace moves the result to its place.
func replace(output, dir string) error {
	if err := os.RemoveAll(output); err != nil {
		return fmt.Errorf("cannot remove the earlier release: %w", err)
	}
	if err := os.MkdirAll(output, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the release: %w", err)
	}
	if err := os.CopyFS(output, os.DirFS(dir)); err != nil {
		return fmt.Errorf("cannot write the release: %w", err)
	}
	return nil
}
