// SPDX-License-Identifier: Apache-2.0

// Package licences finds the licences of the modules that are linked into the programs
// of a checkout, and the texts that have to be shipped with them. It recognizes a
// licence by its text (github.com/google/licensecheck), never by its file's name, and
// refuses a text of which it does not know the most part. It is no legal advice.
package licences

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"

	"github.com/callguard/callguard/hack/oci"
)

// Module is a module that is linked into programs.
type Module struct {
	// Path and Version are those of the module that is linked, even if it replaces another. The standard library is called stdlib,
	// as in package URLs.
	Path, Version string
	// Licence is an SPDX expression, such as "Apache-2.0 AND MIT".
	Licence string
	// Texts are its licences and notices.
	Texts []Text
}

// Text is a file of a module.
type Text struct {
	// File is its path in the module.
	File, Content string
}

// permitted are the licences under which a module may be linked into what is released under Apache-2.0. MPL-2.0 requires that
// its source is available, which the module's path and version ensure.
func permitted() []string {
	return []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}
}

// named matches the names of files that may be a licence or a notice. LICENSE.docs is the documentation's, which is not linked.
var named = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-_.].*)?$`)

// agreed is the percentage of a text that has to match known licences. A copyright line matches none.
const agreed = 75

// goPackage is the part of `go list` that is read.
type goPackage struct {
	Dir      string
	Standard bool
	Module   *goModule
}

type goModule struct {
	Path, Version, Dir string
	Main               bool
	Replace            *goModule
}

// Linked returns the modules that are linked into the programs of a checkout on any of these platforms, in order of their paths.
// packages are patterns, such as ./cmd/...
func Linked(ctx context.Context, checkout string, platforms []oci.Platform, packages ...string) ([]Module, error) {
	folders := map[goModule]map[string]bool{} // of each module: those whose packages are linked
	for _, p := range platforms {
		list, err := dependencies(ctx, checkout, p, packages)
		if err != nil {
			return nil, err
		}
		for _, one := range list {
			m := one.Module
			if m == nil || m.Main {
				continue
			}
			if m.Replace != nil {
				m = m.Replace
			}
			key := goModule{Path: m.Path, Version: m.Version, Dir: m.Dir}
			if folders[key] == nil {
				folders[key] = map[string]bool{}
			}
			folders[key][one.Dir] = true
		}
	}
	standard, err := standardLibrary(ctx, checkout)
	if err != nil {
		return nil, err
	}
	modules := []Module{standard}
	var wrong []error
	for m, dirs := range folders {
		texts, err := textsOf(m.Dir, dirs)
		if err != nil {
			return nil, err
		}
		module := Module{Path: m.Path, Version: m.Version, Texts: texts}
		module.Licence, err = judge(texts)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("module %s %s: %w", m.Path, m.Version, err))
		}
		modules = append(modules, module)
	}
	slices.SortFunc(modules, func(a, b Module) int { return cmp.Compare(a.Path, b.Path) })
	return modules, errors.Join(wrong...)
}

// dependencies lists every package that is linked on a platform.
func dependencies(ctx context.Context, checkout string, p oci.Platform, packages []string) ([]goPackage, error) {
	out, err := goCommand(ctx, checkout, p, append([]string{"list", "-deps", "-json=Dir,Standard,Module"}, packages...)...)
	if err != nil {
		return nil, err
	}
	var list []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var one goPackage
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("cannot read what go list says: %w", err)
		}
		list = append(list, one)
	}
}

// standardLibrary is that of the Go version that builds releases.
func standardLibrary(ctx context.Context, checkout string) (Module, error) {
	out, err := goCommand(ctx, checkout, oci.Platform{}, "env", "GOROOT", "GOVERSION")
	if err != nil {
		return Module{}, err
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	m := Module{Path: "stdlib", Version: strings.TrimPrefix(version, "go")}
	if m.Texts, err = textsIn(root, "."); err != nil {
		return m, err
	}
	if m.Licence, err = judge(m.Texts); err != nil {
		return m, fmt.Errorf("the standard library of Go %s: %w", m.Version, err)
	}
	return m, nil
}

func goCommand(ctx context.Context, dir string, p oci.Platform, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN="+oci.Toolchain, "GOOS="+p.System, "GOARCH="+p.Arch)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// textsOf reads the licences of a module: those at its root, and those that lie with packages that are linked, because there a module
// keeps what it took from others.
func textsOf(root string, dirs map[string]bool) ([]Text, error) {
	below := map[string]bool{".": true}
	for dir := range dirs {
		rel, err := filepath.Rel(root, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("package in %s does not lie in its module's folder %s", dir, root)
		}
		for ; rel != "."; rel = filepath.Dir(rel) {
			below[rel] = true
		}
	}
	var texts []Text
	for dir := range below {
		more, err := textsIn(root, dir)
		if err != nil {
			return nil, err
		}
		texts = append(texts, more...)
	}
	slices.SortFunc(texts, func(a, b Text) int { return cmp.Compare(a.File, b.File) })
	return texts, nil
}

func textsIn(root, dir string) ([]Text, error) {
	files, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		return nil, fmt.Errorf("cannot look for licences: %w", err)
	}
	var texts []Text
	for _, f := range files {
		if f.Type()&fs.ModeType != 0 || !named.MatchString(f.Name()) || strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), ".docs") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("cannot read a licence: %w", err)
		}
		texts = append(texts, Text{File: filepath.ToSlash(filepath.Join(dir, f.Name())), Content: string(content)})
	}
	return texts, nil
}

// judge returns the licences of a module, and what is wrong with them.
func judge(texts []Text) (string, error) {
	found := map[string]bool{}
	for _, t := range texts {
		if isNotice(t.File) {
			continue
		}
		coverage := licensecheck.Scan([]byte(t.Content))
		if coverage.Percent < agreed {
			return "", fmt.Errorf("%s is no licence that is known (%.0f %% of it is)", t.File, coverage.Percent)
		}
		for _, m := range coverage.Match {
			found[m.ID] = true
		}
	}
	if len(found) == 0 {
		return "", errors.New("it has no licence")
	}
	var names []string
	for id := range found {
		if !slices.Contains(permitted(), id) {
			return "", fmt.Errorf("licence %s is not one of those under which a module may be linked: %s", id, strings.Join(permitted(), ", "))
		}
		names = append(names, id)
	}
	slices.Sort(names)
	return strings.Join(names, " AND "), nil
}

// isNotice reports whether a file belongs to a licence without being one.
func isNotice(file string) bool {
	name := strings.ToLower(filepath.Base(file))
	return strings.HasPrefix(name, "notice") || strings.HasPrefix(name, "patents")
}
