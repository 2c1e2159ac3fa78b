// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"os/exec"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestValues renders the chart with other values and compares.
func TestValues(t *testing.T) {
	cases := map[string]struct {
		reason string
		values Values
	}{
		"Default": {reason: "The file is what the chart renders to.", values: DefaultValues()},
		"Other": {
			reason: "A guard knows the doors of its own release, wherever it is installed.",
			values: Values{Namespace: "calls", BreakGlassGroup: "oncall@example.org", Priority: 77},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=hack/tools/helm/go.mod",
				"helm", "template", "callguard", "charts/callguard", "--namespace", tc.values.Namespace,
				"--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy", "--show-only", "templates/doors/*.yaml",
				"--set", "breakGlassGroup="+tc.values.BreakGlassGroup, "--set", "priorityClass.value="+strconv.Itoa(int(tc.values.Priority)))
			cmd.Dir = ".."
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("helm template: %v", err)
			}
			want, err := parse(string(out))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(tc.values)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n-rendered, +parsed:\n%s", tc.reason, diff)
			}
			if len(got.Policies) != 6 || len(got.Bindings) != 6 || len(got.MutatingPolicies) != 1 || len(got.MutatingBindings) != 1 ||
				got.PriorityClass == nil || got.BudgetOwner == nil {
				t.Errorf("%s\na door is missing: %+v", tc.reason, got)
			}
		})
	}
}
