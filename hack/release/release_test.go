// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"
)

func TestValidateNamesEveryMistake(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*options)
		want   []string
	}{
		"Default":      {func(*options) {}, nil},
		"Prerelease":   {func(o *options) { o.version = "1.2.3-rc.1" }, nil},
		"Loopback":     {func(o *options) { o.target = "127.0.0.1:5000/callguard" }, nil},
		"VVersion":     {func(o *options) { o.version = "v1.2.3" }, []string{`--version is "v1.2.3"; use one such as 1.2.3`}},
		"NoVersion":    {func(o *options) { o.version = "" }, []string{`--version is ""`}},
		"ForNoTag":     {func(o *options) { o.version = "1.2.3+dirty" }, []string{"leave out what follows the +"}},
		"NoPath":       {func(o *options) { o.target = "ghcr.io" }, []string{`--registry is "ghcr.io"; use a registry and a path there`}},
		"AllAtOnce":    {func(o *options) { *o = options{} }, []string{"--version", "--registry", "--output"}},
		"BadCharacter": {func(o *options) { o.target = "ghcr.io/Callguard" }, []string{`--registry is "ghcr.io/Callguard"`}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOptions()
			o.version = "1.2.3"
			c.change(o)
			err := o.Validate()
			if (err == nil) != (c.want == nil) {
				t.Fatalf("error is %v, want one with %q", err, c.want)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is %q, want one with %q", err, want)
				}
			}
		})
	}
}

func TestHelpSaysWhatIsMade(t *testing.T) {
	var out bytes.Buffer
	if err := command(t.Context(), []string{"--help"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"publish nothing", "checksums.txt", "--version", "--twice", "SOURCE_DATE_EPOCH"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help does not mention %s:\n%s", want, out.String())
		}
	}
}

// repository creates a checkout of one commit, with a chart, and one file that git ignores.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		".gitignore": "*.bak\n", "charts/one/Chart.yaml": "name: one\n", "charts/one/templates/a.yaml": "a: b\n",
	} {
		if err := writeFile(filepath.Join(dir, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-q", "-m", "one: Begin"}} {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	if err := writeFile(filepath.Join(dir, "charts/one/values.yaml.bak"), []byte("of an editor\n")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCheckoutIsDatedByItsCommit(t *testing.T) {
	dir := repository(t)
	for name, c := range map[string]struct {
		epoch string
		want  time.Time
	}{
		"Commit":      {"", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		"Environment": {"86400", time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			c0, err := openCheckout(t.Context(), dir, c.epoch)
			if err != nil {
				t.Fatal(err)
			}
			if !c0.created.Equal(c.want) || len(c0.revision) != 40 || c0.changed {
				t.Errorf("revision %q of %s, changed %t; want 40 digits, %s, false", c0.revision, c0.created, c0.changed, c.want)
			}
		})
	}
	if _, err := openCheckout(t.Context(), dir, "soon"); err == nil || !strings.Contains(err.Error(), `SOURCE_DATE_EPOCH is "soon"; use seconds`) {
		t.Errorf("error is %v, want one that names SOURCE_DATE_EPOCH", err)
	}
	if _, err := openCheckout(t.Context(), t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), "a release is made of a git checkout") {
		t.Errorf("error is %v, want one that asks for a git checkout", err)
	}
}

func TestCheckoutCopiesOnlyWhatGitKnows(t *testing.T) {
	c, err := openCheckout(t.Context(), repository(t), "")
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := c.copyTree(t.Context(), "charts/one", to); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = filepath.WalkDir(to, func(file string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			below, _ := filepath.Rel(to, file)
			got = append(got, below)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Chart.yaml", "templates/a.yaml"}, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestOutputOfSomethingElseIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := replaceable(dir); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	if err := replaceable(filepath.Join(dir, "new")); err != nil {
		t.Errorf("no folder: %v", err)
	}
	if err := writeFile(filepath.Join(dir, "thesis.txt"), nil); err != nil {
		t.Fatal(err)
	}
	if err := replaceable(dir); err == nil || !strings.Contains(err.Error(), "something other than a release") {
		t.Errorf("a folder with a thesis: error is %v, want a refusal", err)
	}
	if err := writeFile(filepath.Join(dir, checksumsFile), nil); err != nil {
		t.Fatal(err)
	}
	if err := replaceable(dir); err != nil {
		t.Errorf("an earlier release: %v", err)
	}
}

func TestChecksumsReadLikeThoseOfSha256sum(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"b": "two\n", "a": "one\n"} {
		if err := writeFile(filepath.Join(dir, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := checksums(dir)
	if err != nil {
		t.Fatal(err)
	}
	const want = "2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806  a\n" +
		"27dd8ed44a83ff94d557f9fd0412ed5a8cbca69ea04922d88c01184a07300a5a  b\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checksums (-want +got):\n%s", diff)
	}
}

func TestSameNamesWhatDiffers(t *testing.T) {
	if err := same("aa  x\nbb  y\n", "aa  x\nbb  y\n"); err != nil {
		t.Errorf("the same: %v", err)
	}
	err := same("aa  x\nbb  y\n", "aa  x\ncc  y\n")
	if err == nil || !strings.Contains(err.Error(), "these are not the same: y;") {
		t.Errorf("error is %v, want one that names y", err)
	}
}

// The program under test serves as its own example: it links go-containerregistry and
// others.
func TestBillNamesModulesOnce(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	whole := part{name: "image", version: "1.2.3", purpose: "CONTAINER", licence: "Apache-2.0", sum: strings.Repeat("a", 64)}
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	info, _ := debug.ReadBuildInfo()
	licences := map[string]string{"stdlib@" + strings.TrimPrefix(info.GoVersion, "go"): "BSD-3-Clause"}
	for _, m := range sortedModules(info.Deps) {
		licences[m.Path+"@"+m.Version] = "Apache-2.0"
	}
	b := newBill(whole, &checkout{created: created, licences: licences})
	for _, arch := range []string{"amd64", "arm64"} {
		one := b.contain(b.add(whole), part{name: "image " + arch, version: "1.2.3", purpose: "CONTAINER", licence: "Apache-2.0"})
		if err := b.program(one, self); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "image.spdx.json")
	if err := b.write(file); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	got, err := spdxjson.Read(in)
	if err != nil {
		t.Fatalf("it is no SPDX: %v", err)
	}
	if got.SPDXVersion != "SPDX-2.3" || got.CreationInfo.Created != "2026-01-02T03:04:05Z" {
		t.Errorf("version %s of %s, want SPDX-2.3 of the commit's date", got.SPDXVersion, got.CreationInfo.Created)
	}
	seen := map[string]int{}
	for _, p := range got.Packages {
		seen[p.PackageName]++
		if want, known := map[string]string{"stdlib": "BSD-3-Clause", "github.com/google/go-containerregistry": "Apache-2.0"}[p.PackageName]; known && p.PackageLicenseDeclared != want {
			t.Errorf("%s has licence %s, want %s", p.PackageName, p.PackageLicenseDeclared, want)
		}
	}
	for name, want := range map[string]int{"image": 1, "image amd64": 1, "image arm64": 1, "stdlib": 1, "github.com/google/go-containerregistry": 1} {
		if seen[name] != want {
			t.Errorf("%s is %d times in the bill, want %d", name, seen[name], want)
		}
	}
}

// TestBillRefusesUnknownLicences: a module without a known licence is not released.
func TestBillRefusesUnknownLicences(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := newBill(part{name: "image", version: "1.2.3", licence: "Apache-2.0"}, &checkout{})
	if err := b.program(b.document.Packages[0].PackageSPDXIdentifier, self); err == nil || !strings.Contains(err.Error(), "is linked of module stdlib") {
		t.Errorf("error is %v, want one that names the module", err)
	}
}

func TestProvenanceIsOfTheSource(t *testing.T) {
	c := &checkout{revision: strings.Repeat("ab", 20), created: time.Unix(1767225600, 0)}
	var said []string
	for _, changed := range []bool{false, false, true} {
		c.changed = changed
		text, err := provenanceOf(c, "1.2.3", "ghcr.io/callguard")
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, string(text))
	}
	if diff := cmp.Diff(said[0], said[1]); diff != "" {
		t.Errorf("of the same source (-one +another):\n%s", diff)
	}
	if want := `"gitCommit": "` + c.revision + `"`; !strings.Contains(said[0], want) {
		t.Errorf("provenance is %s, want one with %s", said[0], want)
	}
	if changes := "uncommittedChanges"; strings.Contains(said[0], changes) || !strings.Contains(said[2], changes) {
		t.Errorf("only that of a changed checkout says so: %s", said[2])
	}
}
