// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/callguard/callguard/hack/oci"
)

// bill lists what a released thing is made of, as an SPDX document. It is read from the programs themselves, so it names
// what was linked, not everything that go.mod requires.
type bill struct {
	document *spdx.Document
	version  string
	known    map[common.ElementID]bool
	licences map[string]string
}

// part is one item of a bill.
type part struct {
	name, version string
	// purpose is one of SPDX's words, such as CONTAINER.
	purpose string
	// sum is its SHA-256, in hexadecimal, if it has one.
	sum string
	// url is its package URL.
	url string
	// licence is an SPDX expression.
	licence string
}

// newBill begins the bill of something that was made from a checkout, and that the document is about.
func newBill(of part, c *checkout) *bill {
	b := &bill{version: of.version, known: map[common.ElementID]bool{}, licences: c.licences, document: &spdx.Document{
		SPDXVersion:    spdx.Version,
		DataLicense:    spdx.DataLicense,
		SPDXIdentifier: "DOCUMENT",
		DocumentName:   of.name + "-" + of.version,
		// It has to be unique to the document, and the same for the same content.
		DocumentNamespace: fmt.Sprintf("%s/sbom/%s/%s-%s", oci.Source, of.version, of.name, of.sum),
		CreationInfo: &spdx.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Organization", Creator: "callguard"}, {CreatorType: "Tool", Creator: "callguard-release-" + of.version}},
			Created:  c.created.Format(time.RFC3339),
		},
	}}
	b.relate("DOCUMENT", common.TypeRelationshipDescribe, b.add(of))
	return b
}

// add adds a part once, and returns its identifier in the document.
func (b *bill) add(p part) common.ElementID {
	// SPDX allows few characters, so two names may look the same without the sum.
	sum := sha256.Sum256(fmt.Append(nil, p.purpose, p.name, p.version, p.sum, p.url))
	id := common.ElementID(regexp.MustCompile(`[^a-zA-Z0-9.]+`).ReplaceAllString(p.name, "-") + "-" + hex.EncodeToString(sum[:4]))
	if b.known[id] {
		return id
	}
	b.known[id] = true
	out := &spdx.Package{
		PackageName: p.name, PackageVersion: p.version, PackageSPDXIdentifier: id, PrimaryPackagePurpose: p.purpose,
		PackageDownloadLocation: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		PackageLicenseConcluded: p.licence, PackageLicenseDeclared: p.licence,
	}
	if p.sum != "" {
		out.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: p.sum}}
	}
	if p.url != "" {
		out.PackageExternalReferences = []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: p.url,
		}}
	}
	b.document.Packages = append(b.document.Packages, out)
	return id
}

func (b *bill) relate(from common.ElementID, how string, to common.ElementID) {
	b.document.Relationships = append(b.document.Relationships, &spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, Relationship: how, RefB: common.DocElementID{ElementRefID: to},
	})
}

// contain adds a part to another.
func (b *bill) contain(whole common.ElementID, p part) common.ElementID {
	id := b.add(p)
	b.relate(whole, common.TypeRelationshipContains, id)
	return id
}

// program adds a program of ours that is part of something else, and every module that it links.
func (b *bill) program(whole common.ElementID, file string) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot tell what %s was built of: %w", file, err)
	}
	sum, err := fileSum(file)
	if err != nil {
		return err
	}
	below := strings.TrimPrefix(strings.TrimPrefix(info.Path, info.Main.Path), "/")
	id := b.contain(whole, part{
		name: strings.TrimSuffix(filepath.Base(file), ".exe"), version: b.version, purpose: "APPLICATION", sum: sum,
		url: moduleURL(info.Main.Path, "v"+b.version) + "#" + below, licence: "Apache-2.0",
	})
	standard := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range append([]*debug.Module{standard}, sortedModules(info.Deps)...) {
		licence, known := b.licences[m.Path+"@"+m.Version]
		if !known {
			return fmt.Errorf("%s is linked of module %s %s, of which no licence is known", file, m.Path, m.Version)
		}
		b.relate(id, common.TypeRelationshipDependsOn, b.add(part{
			name: m.Path, version: m.Version, purpose: "LIBRARY", url: moduleURL(m.Path, m.Version), licence: licence,
		}))
	}
	return nil
}

// sortedModules returns the linked modules, and their replacements.
func sortedModules(deps []*debug.Module) []*debug.Module {
	linked := make([]*debug.Module, len(deps))
	for i, m := range deps {
		linked[i] = m
		if m.Replace != nil {
			linked[i] = m.Replace
		}
	}
	slices.SortFunc(linked, func(a, b *debug.Module) int { return cmp.Compare(a.Path, b.Path) })
	return linked
}

// moduleURL returns the package URL of a Go module.
func moduleURL(module, version string) string {
	return "pkg:golang/" + module + "@" + strings.ReplaceAll(version, "+", "%2B")
}

// write checks the bill and writes it as JSON.
func (b *bill) write(file string) error {
	if err := spdxlib.ValidateDocument(b.document); err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	var out bytes.Buffer
	if err := spdxjson.Write(b.document, &out, spdxjson.Indent(" "), spdxjson.EscapeHTML(false)); err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	return writeFile(file, out.Bytes())
}
