// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCompiledInReadsWhatTheGoCommandWouldDo(t *testing.T) {
	script := "mkdir -p $WORK/b002/\n\n#\n# internal/goarch\n#\n\n" +
		"cat >$WORK/b002/importcfg << 'EOF'\n# import config\nEOF\n" +
		"/usr/lib/go/pkg/tool/linux_amd64/compile -o $WORK/b002/_pkg_.a -trimpath \"$WORK/b002=>\" -p internal/goarch -complete\n" +
		"/usr/lib/go/pkg/tool/linux_amd64/asm -p internal/abi -o $WORK/b003/symabis ./stub.s\n" +
		"\n#\n# example.org/program\n#\n\n/usr/lib/go/pkg/tool/linux_amd64/link -o $WORK/b001/exe/a.out\n"
	if diff := cmp.Diff([]string{"internal/goarch"}, compiledIn(script)); diff != "" {
		t.Errorf("only the compiler compiles: -want, +got:\n%s", diff)
	}
}

func TestRemaining(t *testing.T) {
	cases := map[string]struct {
		reason      string
		passed      time.Duration
		done, total int
		want        time.Duration
	}{
		"Half":    {"As long as until now.", time.Minute, 50, 100, time.Minute},
		"TooSoon": {"The first packages say little.", time.Second, 1, 100, 0},
		"Done":    {"Nothing is left to compile, only to link.", time.Minute, 100, 100, 0},
		"Beyond":  {"More were compiled than were counted.", time.Minute, 110, 100, 0},
		"Uncount": {"Nobody has counted.", time.Minute, 10, 0, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := remaining(tc.passed, tc.done, tc.total); got != tc.want {
				t.Errorf("%s remaining(%s, %d, %d) = %s, want %s", tc.reason, tc.passed, tc.done, tc.total, got, tc.want)
			}
		})
	}
}

// TestSharedModulesHaveOneVersion keeps a cold start short: a package that callguard and a program of the local
// cluster share is compiled only once if both use the same version of its module. LiveKit and Kubernetes, which are
// tested against, keep the versions that they were released with.
func TestSharedModulesHaveOneVersion(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal("no go command; install Go")
	}
	repository, err := repositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	own := map[string][]string{
		moduleEtcd: {"go.etcd.io/etcd/"},
		moduleKwok: {"github.com/go-errors/errors"}, // it needs a newer one, and few packages use it
	}
	product := requirements(t, repository)
	for _, m := range []string{moduleEtcd, moduleKwok} {
		dir := filepath.Join("hack", "tools", m)
		var got []string
		for path, version := range requirements(t, filepath.Join(repository, dir)) {
			want, shared := product[path]
			if shared && want != version && !hasAnyPrefix(path, own[m]) {
				got = append(got, path+"@"+want)
			}
		}
		if diff := cmp.Diff([]string(nil), got); diff != "" {
			t.Errorf("%s has other versions than go.mod, so a cold start compiles these twice; run \"go -C %s get\" with these modules:\n%s", dir, dir, diff)
		}
	}
}

func hasAnyPrefix(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

func requirements(t *testing.T, dir string) map[string]string {
	t.Helper()
	raw, err := goOutput(t.Context(), dir, "mod", "edit", "-json")
	if err != nil {
		t.Fatal(err)
	}
	var mod goMod
	if err := json.Unmarshal(raw, &mod); err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, r := range mod.Require {
		versions[r.Path] = r.Version
	}
	if len(versions) == 0 {
		t.Fatalf("%s requires nothing", filepath.Join(dir, "go.mod"))
	}
	return versions
}

func TestUncompiledNamesWhatNoCacheHas(t *testing.T) {
	source := t.TempDir()
	unheard := "package main\n\nfunc main() { println(" + strconv.Quote(source+time.Now().String()) + ") }\n"
	for name, text := range map[string]string{"go.mod": "module tiny\n\ngo 1.24\n", "main.go": unheard} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := buildPlan{toolModule: toolModule{name: "tiny", program: "tiny"}, dir: source, packages: []string{"."}}
	got, err := p.uncompiled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got, "main") {
		t.Errorf("uncompiled() = %q, want package main in it", got)
	}
}
