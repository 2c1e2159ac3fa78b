// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/callguard/callguard/hack/oci"
)

// pluginProgram is the kubectl plugin, and its folder under cmd.
const pluginProgram = "kubectl-calls"

// pluginOn returns the plugin's file name on a platform.
func pluginOn(p oci.Platform) string {
	if p.System == "windows" {
		return pluginProgram + ".exe"
	}
	return pluginProgram
}

// archive is a file that krew downloads.
type archive struct {
	oci.Platform
	name, sum string
}

// makePlugin builds the plugin for each platform into dir: archives, their bill of materials and the krew manifest.
func makePlugin(ctx context.Context, c *checkout, version, dir, work string, platforms []oci.Platform) error {
	var beside []tarFile
	for _, name := range oci.Licences() {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		if err != nil {
			return fmt.Errorf("cannot pack the plugin with its licences: %w", err)
		}
		beside = append(beside, tarFile{name, 0o644, text})
	}
	var archives []archive
	contents := newBill(part{name: pluginProgram, version: version, purpose: "APPLICATION",
		url: moduleURL(modulePath, "v"+version) + "#cmd/" + pluginProgram, licence: "Apache-2.0"}, c)
	for _, p := range platforms {
		program := filepath.Join(work, p.System+"_"+p.Arch, pluginOn(p))
		if err := oci.Build(ctx, c.dir, program, p.System, p.Arch, version, "./cmd/"+pluginProgram); err != nil {
			return err
		}
		data, err := os.ReadFile(program)
		if err != nil {
			return fmt.Errorf("cannot pack the plugin: %w", err)
		}
		a := archive{Platform: p, name: fmt.Sprintf("%s_v%s_%s_%s.tar.gz", pluginProgram, version, p.System, p.Arch)}
		file := filepath.Join(dir, a.name)
		if err := writeTarball(file, c.created, append([]tarFile{{pluginOn(p), 0o755, data}}, beside...)...); err != nil {
			return err
		}
		if a.sum, err = fileSum(file); err != nil {
			return err
		}
		archives = append(archives, a)
		packed := contents.contain(contents.document.Packages[0].PackageSPDXIdentifier,
			part{name: a.name, version: version, purpose: "ARCHIVE", sum: a.sum, licence: "Apache-2.0"})
		if err := contents.program(packed, program); err != nil {
			return err
		}
	}
	if err := contents.write(filepath.Join(dir, pluginProgram+"_v"+version+".spdx.json")); err != nil {
		return err
	}
	manifest, err := krewManifest(version, archives)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "calls.yaml"), manifest)
}

// tarFile is one file of an archive.
type tarFile struct {
	name string
	mode int64
	data []byte
}

// writeTarball packs files so that the same files produce the same bytes.
func writeTarball(file string, created time.Time, files ...tarFile) error {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	out := tar.NewWriter(zipped)
	var errs []error
	for _, f := range files {
		errs = append(errs, out.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: created, Format: tar.FormatUSTAR,
		}))
		_, err := out.Write(f.data)
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, out.Close(), zipped.Close())...); err != nil {
		return fmt.Errorf("cannot pack %s: %w", file, err)
	}
	return writeFile(file, packed.Bytes())
}

// plugin is krew's description of a plugin; see https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/.
type plugin struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   map[string]string `yaml:"metadata"`
	Spec       pluginSpec        `yaml:"spec"`
}

type pluginSpec struct {
	Version          string           `yaml:"version"`
	Homepage         string           `yaml:"homepage"`
	ShortDescription string           `yaml:"shortDescription"`
	Description      string           `yaml:"description"`
	Platforms        []pluginPlatform `yaml:"platforms"`
}

type pluginPlatform struct {
	Selector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	} `yaml:"selector"`
	URI    string       `yaml:"uri"`
	SHA256 string       `yaml:"sha256"`
	Files  []pluginFile `yaml:"files"`
	Bin    string       `yaml:"bin"`
}

type pluginFile struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

// krewManifest describes the archives to krew.
func krewManifest(version string, archives []archive) ([]byte, error) {
	p := plugin{
		APIVersion: "krew.googlecontainertools.github.com/v1alpha2", Kind: "Plugin", Metadata: map[string]string{"name": "calls"},
		Spec: pluginSpec{
			Version: "v" + version, Homepage: oci.Source,
			ShortDescription: "Show and drain the calls that pods hold",
			Description: "Shows which calls of LiveKit voice agents keep a node from being drained and for\n" +
				"how long, and drains a node without losing one. Needs callguard in the cluster.\n",
		},
	}
	for _, a := range archives {
		one := pluginPlatform{
			URI: fmt.Sprintf("%s/releases/download/v%s/%s", oci.Source, version, a.name), SHA256: a.sum, Bin: pluginOn(a.Platform),
		}
		for _, name := range append([]string{one.Bin}, oci.Licences()...) {
			one.Files = append(one.Files, pluginFile{From: name, To: "."})
		}
		one.Selector.MatchLabels = map[string]string{"os": a.System, "arch": a.Arch}
		p.Spec.Platforms = append(p.Spec.Platforms, one)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(p), encoder.Close()); err != nil {
		return nil, fmt.Errorf("cannot write the krew manifest: %w", err)
	}
	return out.Bytes(), nil
}
