// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// chart is a chart that is released.
type chart struct {
	name string
	// image is the path of callguard's image in its values.
	image []string
	// tag means that its values need the tag. The other chart uses its appVersion.
	tag bool
}

func charts() []chart {
	return []chart{
		{name: "callguard", image: []string{"image"}},
		{name: "voice-agent", image: []string{"callguard", "image"}, tag: true},
	}
}

// chartMeta is the part of a Chart.yaml that is read.
type chartMeta struct {
	Version string `yaml:"version"`
}

func readChart(dir string) (chartMeta, error) {
	var meta chartMeta
	data, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	if err != nil {
		return meta, fmt.Errorf("cannot read a chart: %w; run this in the root of the checkout", err)
	}
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return meta, fmt.Errorf("cannot read %s/Chart.yaml: %w", dir, err)
	}
	return meta, nil
}

// packageChart packages a chart that installs image, of this release, by digest.
func (r *release) packageChart(ctx context.Context, c chart, digest, dir, work string) (string, error) {
	staged := filepath.Join(work, c.name)
	if err := r.source.copyTree(ctx, filepath.Join("charts", c.name), staged); err != nil {
		return "", err
	}
	licence, err := os.ReadFile(filepath.Join(r.source.dir, "LICENSE"))
	if err != nil {
		return "", fmt.Errorf("cannot pack chart %s with its licence: %w", c.name, err)
	}
	if err := writeFile(filepath.Join(staged, "LICENSE"), licence); err != nil {
		return "", err
	}
	values := filepath.Join(staged, "values.yaml")
	text, err := os.ReadFile(values)
	if err != nil {
		return "", fmt.Errorf("cannot read the values of chart %s: %w", c.name, err)
	}
	set := map[string]string{"repository": r.imageName(), "digest": digest}
	if c.tag {
		set["tag"] = r.version
	}
	for key, value := range set {
		if text, err = setValue(text, value, slices.Concat(c.image, []string{key})...); err != nil {
			return "", fmt.Errorf("cannot set the image of chart %s: %w", c.name, err)
		}
	}
	if err := writeFile(values, text); err != nil {
		return "", err
	}
	// The tables of its README and its schema repeat the values.
	cmd := exec.CommandContext(ctx, filepath.Join("hack", "update-charts.sh"), staged)
	cmd.Dir = r.source.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot write the documents of chart %s: %w\n%s", c.name, err, out)
	}
	if _, err := r.tools.run(ctx, helm, "package", staged, "--version", r.version, "--app-version", r.version, "--destination", dir); err != nil {
		return "", err
	}
	file := filepath.Join(dir, c.name+"-"+r.version+".tgz")
	// Helm takes the date of a push from the file's.
	if err := os.Chtimes(file, r.source.created, r.source.created); err != nil {
		return "", fmt.Errorf("cannot date %s: %w", file, err)
	}
	return file, nil
}

// pushChart pushes an archive and returns its digest in the registry.
func (r *release) pushChart(ctx context.Context, file string) (string, error) {
	said, err := r.tools.run(ctx, helm, "push", file, "oci://"+r.registry.host+"/charts", "--plain-http")
	if err != nil {
		return "", err
	}
	digest := regexp.MustCompile(`(?m)^Digest: (sha256:[0-9a-f]{64})$`).FindStringSubmatch(said)
	if digest == nil {
		return "", fmt.Errorf("helm push %s names no digest, but says:\n%s", file, said)
	}
	return digest[1], nil
}

// checkChart pulls a chart by digest, as users do, and checks that it is the one that was packaged and that it installs image.
func (r *release) checkChart(ctx context.Context, c chart, digest, file, image, work string) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return fmt.Errorf("cannot make a folder for what is pulled: %w", err)
	}
	ref := "oci://" + r.registry.host + "/charts/" + c.name + "@" + digest
	if _, err := r.tools.run(ctx, helm, "pull", ref, "--plain-http", "--destination", work); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("helm pull %s left %d archives, want 1", ref, len(found))
	}
	made, err1 := os.ReadFile(file)
	pulled, err2 := os.ReadFile(found[0])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("cannot compare what was pulled: %w", err)
	}
	if !bytes.Equal(made, pulled) {
		return fmt.Errorf("%s is not what was pushed", ref)
	}
	args := []string{"template", "release", found[0], "--namespace", "voice"}
	least := filepath.Join(r.source.dir, "charts", c.name, "ci", "default-values.yaml")
	if _, err := os.Stat(least); err == nil {
		args = append(args, "--values", least)
	}
	rendered, err := r.tools.run(ctx, helm, args...)
	if err != nil {
		return err
	}
	return checkImages(c.name, rendered, image)
}

// checkImages looks for programs of callguard that a rendered chart would start from another image than the release's.
func checkImages(name, rendered, image string) error {
	repository, _, _ := strings.Cut(image, ":")
	found := false
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:- )?image: "?([^"\s]+)"?\s*$`).FindAllStringSubmatch(rendered, -1) {
		ours := m[1] == repository || strings.HasPrefix(m[1], repository+":") || strings.HasPrefix(m[1], repository+"@") ||
			strings.HasPrefix(m[1], "callguard:") || strings.HasPrefix(m[1], "callguard@")
		if ours && m[1] != image {
			return fmt.Errorf("chart %s installs %s, want %s", name, m[1], image)
		}
		found = found || ours
	}
	if !found {
		return fmt.Errorf("chart %s installs no image %s", name, image)
	}
	return nil
}

// setValue sets one scalar of a values.yaml and keeps every other character, including comments.
func setValue(text []byte, value string, keys ...string) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("cannot read values.yaml: %w", err)
	}
	if len(document.Content) == 0 {
		return nil, errors.New("values.yaml is empty")
	}
	at := document.Content[0]
	for _, key := range keys {
		if at = child(at, key); at == nil {
			return nil, fmt.Errorf("values.yaml has no %s", strings.Join(keys, "."))
		}
	}
	if at.Kind != yaml.ScalarNode || at.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return nil, fmt.Errorf("%s of values.yaml is no text of one line", strings.Join(keys, "."))
	}
	lines := strings.SplitAfter(string(text), "\n")
	line := lines[at.Line-1]
	before, rest := line[:at.Column-1], line[at.Column-1:]
	// The scalar as it is written: quoted, or up to the end of a plain scalar. The values set here need no quotes.
	written := regexp.MustCompile(`^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,}\]]*)`).FindString(rest)
	lines[at.Line-1] = before + fmt.Sprintf("%q", value) + rest[len(written):]
	out := []byte(strings.Join(lines, ""))
	return out, checkValue(out, value, keys)
}

// checkValue reads back what was set.
func checkValue(text []byte, value string, keys []string) error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("cannot set %s of values.yaml: %w", strings.Join(keys, "."), err)
	}
	at := document.Content[0]
	for _, key := range keys {
		if at = child(at, key); at == nil {
			break
		}
	}
	if at == nil || at.Value != value {
		return fmt.Errorf("cannot set %s of values.yaml: write it on a line of its own", strings.Join(keys, "."))
	}
	return nil
}

// child returns the value of a key of a map.
func child(node *yaml.Node, key string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}
