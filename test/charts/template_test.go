// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
)

// discovered is what Helm learns from a cluster: groups, as without one, and their kinds.
func discovered(kinds ...string) common.VersionSet {
	return append(slices.Clone(common.DefaultVersionSet), append(kinds, "v1/Pod")...)
}

// TestTemplateIsInstall: helm template, kustomize and others that render without a cluster produce the same as an install on
// that version of Kubernetes, also without --api-versions; and if the version they assume has no grace policy, they say so.
func TestTemplateIsInstall(t *testing.T) {
	t.Parallel()
	const v1, v1beta1 = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy", "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy"
	for version, tc := range map[string]struct {
		kinds []string // found by an install in the cluster
		door  bool
	}{
		"v1.34.4":             {},
		"v1.35.4":             {},
		"v1.36.3+k3s1":        {kinds: []string{v1}, door: true},
		"v1.36.0":             {kinds: []string{v1}, door: true},
		"v1.36.1-gke.1201000": {kinds: []string{v1, v1beta1}, door: true},
		"v1.37.2":             {kinds: []string{v1}, door: true},
		"v1.36.3-eks-7f9249a": {kinds: []string{v1}, door: true},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			template, install := addon{version: version}.must(t), addon{version: version, apis: discovered(tc.kinds...)}.must(t)
			if diff := cmp.Diff(install.files, template.files); diff != "" {
				t.Errorf("helm template makes other objects than an install (-install +template):\n%s", diff)
			}
			file := template.files["callguard/templates/doors/grace.yaml"]
			policies := all[admissionregistrationv1.MutatingAdmissionPolicy](t, template, "MutatingAdmissionPolicy")
			bindings := all[admissionregistrationv1.MutatingAdmissionPolicyBinding](t, template, "MutatingAdmissionPolicyBinding")
			if (policies["callguard-grace"] != nil) != tc.door || (bindings["callguard-grace"] != nil) != tc.door {
				t.Errorf("callguard-grace: %d policies and %d bindings are rendered", len(policies), len(bindings))
			}
			if said := strings.Contains(file, "# No policy callguard-grace for Kubernetes "+version) && strings.Contains(file, "--kube-version 1.36.0"); said == tc.door {
				t.Errorf("that it is missing, and what to do, is said: %t, in\n%s", said, file)
			}
		})
	}
	if beta := (addon{version: "v1.34.4", apis: discovered(v1beta1)}).must(t).files["callguard/templates/doors/grace.yaml"]; !strings.Contains(beta, "apiVersion: admissionregistration.k8s.io/v1beta1\nkind: MutatingAdmissionPolicy\n") {
		t.Errorf("a cluster with its beta APIs gets\n%s", beta)
	}
	off := addon{version: "v1.36.0", apis: discovered()}.must(t)
	if len(all[admissionregistrationv1.MutatingAdmissionPolicy](t, off, "MutatingAdmissionPolicy")) != 0 {
		t.Error("a cluster that was asked, and does not serve the kind, gets it all the same")
	}
}
