// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSetValueChangesNothingElse(t *testing.T) {
	const values = `# How the image is found.
image:
  # Where it is.
  repository: callguard   # ours
  tag: ""
  flow: {registry: "", digest: old, pullPolicy: Always}
replicas: 2
`
	for name, c := range map[string]struct {
		keys []string
		want string
	}{
		"Plain":  {[]string{"image", "repository"}, strings.Replace(values, "callguard ", `"new" `, 1)},
		"Quoted": {[]string{"image", "tag"}, strings.Replace(values, `tag: ""`, `tag: "new"`, 1)},
		"Flow":   {[]string{"image", "flow", "digest"}, strings.Replace(values, "digest: old", `digest: "new"`, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := setValue([]byte(values), "new", c.keys...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetValueNamesWhatIsNotThere(t *testing.T) {
	for name, c := range map[string]struct {
		values string
		keys   []string
		want   string
	}{
		"NoKey":     {"image: {}\n", []string{"image", "digest"}, "values.yaml has no image.digest"},
		"NotOne":    {"image:\n  tags: [a, b]\n", []string{"image", "tags"}, "image.tags of values.yaml is no text of one line"},
		"LongText":  {"image: |\n  a\n  b\n", []string{"image"}, "image of values.yaml is no text of one line"},
		"Empty":     {"", []string{"image"}, "values.yaml is empty"},
		"NotAValue": {"image:\n  digest:\n", []string{"image", "digest"}, "cannot set image.digest of values.yaml: write it on a line of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := setValue([]byte(c.values), "new", c.keys...)
			if err == nil {
				t.Fatalf("set to %q, want %q", got, c.want)
			}
			if err.Error() != c.want {
				t.Errorf("error is %q, want %q", err, c.want)
			}
		})
	}
}

// Each chart names the image where a release sets it.
func TestChartsNameTheImageWhereItIsSet(t *testing.T) {
	for _, c := range charts() {
		text, err := os.ReadFile(filepath.Join("../../charts", c.name, "values.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		keys := []string{"repository", "digest"}
		if c.tag {
			keys = append(keys, "tag")
		}
		for _, key := range keys {
			if _, err := setValue(text, "new", slices.Concat(c.image, []string{key})...); err != nil {
				t.Errorf("chart %s: %v", c.name, err)
			}
		}
	}
}

func TestCheckImagesFindsAnImageOfAnotherRelease(t *testing.T) {
	const image = "ghcr.io/callguard/callguard:1.2.3@sha256:aa"
	rendered := func(images ...string) string {
		var text strings.Builder
		for _, i := range images {
			text.WriteString("      - name: one\n        image: " + i + "\n")
		}
		return text.String()
	}
	for name, c := range map[string]struct {
		rendered, want string
	}{
		"Ours":      {rendered(image, `"`+image+`"`, "livekit/livekit-server:v1.13.5"), ""},
		"Untouched": {rendered(image, "callguard:dev"), "chart voice-agent installs callguard:dev, want " + image},
		"NoDigest":  {rendered("ghcr.io/callguard/callguard:1.2.3"), "chart voice-agent installs ghcr.io/callguard/callguard:1.2.3, want " + image},
		"None":      {rendered("livekit/livekit-server:v1.13.5"), "chart voice-agent installs no image " + image},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := checkImages("voice-agent", c.rendered, image); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("error is %q, want %q", got, c.want)
			}
		})
	}
}
