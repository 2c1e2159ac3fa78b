// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// instruction is a line of a Dockerfile, such as COPY, split into words.
type instruction struct {
	name  string
	words []string
}

// stages parses a Dockerfile: each starts with its FROM.
func stages(t *testing.T, file string) [][]instruction {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]instruction
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		words := shellWords(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if words[0] == "FROM" {
			all = append(all, nil)
		}
		if len(all) == 0 {
			t.Fatalf("%s begins with %s, want FROM", file, words[0])
		}
		last := len(all) - 1
		all[last] = append(all[last], instruction{words[0], words[1:]})
	}
	return all
}

// shellWords splits a line; double quotes hold words together.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(strings.TrimSpace(line), `"`) {
		if quoted := i%2 == 1; quoted {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

// all returns the words of every instruction with that name.
func all(stage []instruction, name string) (words []string) {
	for _, i := range stage {
		if i.name == name {
			words = append(words, i.words...)
		}
	}
	return words
}

func TestDockerfileMakesTheSameImage(t *testing.T) {
	file := stages(t, "../../Dockerfile")
	if len(file) != 2 {
		t.Fatalf("Dockerfile has %d stages, want 2: one that builds, one that is published", len(file))
	}
	build, final := file[0], file[1]

	t.Run("TheSameCompiler", func(t *testing.T) {
		mod := struct{ Go, Toolchain string }{}
		goJSON(t, &mod, "mod", "edit", "-json")
		want := regexp.MustCompile("^golang:" + regexp.QuoteMeta(mod.Go) + "-bookworm@sha256:[0-9a-f]{64}$")
		if from := build[0].words; !slices.ContainsFunc(from, want.MatchString) {
			t.Errorf("the programs are built from %q, want the Go of go.mod, by digest: %s", from, want)
		}
		if mod.Toolchain != Toolchain { // the environment of the build has it
			t.Errorf("go.mod names toolchain %q, want the one that builds releases, %s", mod.Toolchain, Toolchain)
		}
	})
	t.Run("TheSameBuild", func(t *testing.T) {
		want := slices.Concat([]string{"GOARCH=$TARGETARCH", "go", "build"}, buildFlags("$VERSION"), []string{"-o", "/out/", "./cmd/..."})
		if diff := cmp.Diff(slices.Concat([]string{"go", "mod", "download"}, want), all(build, "RUN")); diff != "" {
			t.Errorf("what the Dockerfile runs (-want +got):\n%s", diff)
		}
		environment := append(buildEnvironment(), "GOOS=linux")
		if diff := cmp.Diff(slices.Sorted(slices.Values(environment)), slices.Sorted(slices.Values(all(build, "ENV")))); diff != "" {
			t.Errorf("the environment it builds in (-want +got):\n%s", diff)
		}
	})
	t.Run("TheSameSource", func(t *testing.T) {
		copied := map[string]bool{}
		for _, i := range build {
			if i.name == "COPY" {
				for _, from := range i.words[:len(i.words)-1] {
					copied[from] = true
				}
			}
		}
		want := sources(t)
		want["go.mod"], want["go.sum"] = true, true
		if diff := cmp.Diff(want, copied); diff != "" {
			t.Errorf("folders and files that the programs are built of (-want +got):\n%s", diff)
		}
		ignore, err := os.ReadFile("../../.dockerignore")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range Licences() {
			want[name] = true
		}
		sent := map[string]bool{}
		for line := range strings.Lines(string(ignore)) {
			if name, is := strings.CutPrefix(strings.TrimSpace(line), "!"); is {
				sent[name] = true
			}
		}
		if diff := cmp.Diff(want, sent); diff != "" {
			t.Errorf("what .dockerignore lets through (-want +got):\n%s", diff)
		}
	})
	t.Run("TheSameContent", func(t *testing.T) {
		var names []string
		for _, i := range final {
			names = append(names, i.name)
		}
		if diff := cmp.Diff([]string{"FROM", "LABEL", "COPY", "COPY", "USER"}, names); diff != "" {
			t.Errorf("instructions of the published stage (-want +got):\n%s", diff)
		}
		got := map[string][]string{"FROM": all(final, "FROM"), "COPY": all(final, "COPY"), "USER": all(final, "USER")}
		// Programs puts every program at the root, and their licences with them.
		copied := slices.Concat([]string{"--from=build", "/out/", "/"}, Licences(), []string{"/"})
		want := map[string][]string{"FROM": {"scratch"}, "COPY": copied, "USER": {Nobody}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the published stage (-want +got):\n%s", diff)
		}
		marks := map[string]string{}
		for _, l := range all(final, "LABEL") {
			key, value, _ := strings.Cut(l, "=")
			marks[key] = value
		}
		if diff := cmp.Diff(labels(), marks); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
	})
}

// sources are the folders at the root of the repository whose packages the programs need.
func sources(t *testing.T) map[string]bool {
	t.Helper()
	const module = "github.com/callguard/callguard/"
	cmd := exec.Command("go", "list", "-deps", "./cmd/...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list what the programs import: %v", err)
	}
	folders := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, ours := strings.CutPrefix(strings.TrimSpace(line), module); ours {
			top, _, _ := strings.Cut(name, "/")
			folders[top] = true
		}
	}
	if len(folders) == 0 {
		t.Fatalf("no program imports a package below %s", path.Dir(module))
	}
	return folders
}

func goJSON(t *testing.T, into any, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatal(err)
	}
}
