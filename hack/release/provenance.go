// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"

	"github.com/callguard/callguard/hack/licences"
	"github.com/callguard/callguard/hack/oci"
)

// provenanceFile records what a release was made from, and how. It is an SLSA provenance
// without the subject, which cosign adds for image and charts. The same source produces
// the same file, so it contains no time, no machine and no user: whoever signs it vouches
// for those. See https://slsa.dev/spec/v1.0/provenance.
const provenanceFile = "provenance.json"

type provenance struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters"`
		ResolvedDependencies []dependency   `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// provenanceOf describes how a version is made from a checkout.
func provenanceOf(c *checkout, version, target string) ([]byte, error) {
	source := "git+" + oci.Source + "@" + c.revision
	var p provenance
	p.BuildDefinition.BuildType = oci.Source + "/tree/" + c.revision + "/hack/release"
	p.BuildDefinition.ExternalParameters = map[string]any{"source": source, "version": version, "registry": target}
	if c.changed {
		p.BuildDefinition.ExternalParameters["uncommittedChanges"] = true
	}
	p.BuildDefinition.InternalParameters = map[string]any{"SOURCE_DATE_EPOCH": c.created.Unix()}
	// Modules are pinned by go.sum, and the bills of materials name them.
	p.BuildDefinition.ResolvedDependencies = []dependency{
		{URI: source, Digest: map[string]string{"gitCommit": c.revision}},
		{URI: moduleURL("stdlib", oci.Toolchain[len("go"):])},
	}
	p.RunDetails.Builder.ID = p.BuildDefinition.BuildType
	out, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write the provenance: %w", err)
	}
	return append(out, '\n'), nil
}

// byModule maps modules, as path@version, to their licences.
func byModule(modules []licences.Module) map[string]string {
	known := map[string]string{}
	for _, m := range modules {
		known[m.Path+"@"+m.Version] = m.Licence
	}
	return known
}
