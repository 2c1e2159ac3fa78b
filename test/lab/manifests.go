// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// KeepsGraces reports whether a control plane has MutatingAdmissionPolicies, which
// Kubernetes has from 1.36: without them policy callguard-grace is not installed.
func KeepsGraces(client discovery.DiscoveryInterface) (bool, error) {
	resources, err := client.ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("cannot read which admission policies there are: %w", err)
	}
	return slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == "mutatingadmissionpolicies" }), nil
}

// ManifestsVariable names a folder from which the manifests are taken instead of the repository's: test/mutants puts
// broken ones there.
const ManifestsVariable = "CALLGUARD_MANIFESTS"

// WriteManifests joins manifests into one file in dir and returns its path. Like the chart, it leaves out policies that
// the control plane does not support.
func WriteManifests(client discovery.DiscoveryInterface, dir string, names ...string) (string, error) {
	keeps, err := KeepsGraces(client)
	if err != nil {
		return "", err
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	folder := cmp.Or(os.Getenv(ManifestsVariable), filepath.Join(root, "manifests"))
	var documents []string
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return "", err
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			if keeps || !strings.Contains(document, "kind: MutatingAdmissionPolicy") {
				documents = append(documents, document)
			}
		}
	}
	path := filepath.Join(dir, "manifests-"+strings.Join(names, "-"))
	return path, os.WriteFile(path, []byte(strings.Join(documents, "\n---\n")), 0o600)
}
