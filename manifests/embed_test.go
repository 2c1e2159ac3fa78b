// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestValues renders the chart with other values and compares.
func TestValues(t *testing.T) {
	cases := map[string]struct {
		reason string
		values Values
	}{
		"Default": {reason: "The file matches the rendered chart.", values: DefaultValues()},
		"Other": {
			reason: "A guard knows the policies of its own release, wherever it is installed.",
			values: Values{Namespace: "calls", Account: "watcher", BreakGlassGroup: "oncall@example.org", Priority: 77},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			want, err := parse(render(t, "--namespace", tc.values.Namespace,
				"--kube-version", "1.36.0",
				"--set", "drainGuard.serviceAccount.name="+tc.values.Account, "--set", "breakGlassGroup="+tc.values.BreakGlassGroup, "--set", "priorityClass.value="+strconv.Itoa(int(tc.values.Priority))))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(tc.values)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\nmanifests/doors.yaml is not what charts/callguard renders to; run hack/update-manifests.sh (-chart, +manifests):\n%s", tc.reason, diff)
			}
			if len(got.Policies) != 14 || len(got.Bindings) != 14 || len(got.MutatingPolicies) != 1 || len(got.MutatingBindings) != 1 ||
				got.PriorityClass == nil || got.BudgetOwner == nil {
				t.Errorf("%s\n%d policies, %d bindings, %d mutating policies, %d mutating bindings, PriorityClass %t, budget owner %t; if you added or removed a policy, adjust the numbers here",
					tc.reason, len(got.Policies), len(got.Bindings), len(got.MutatingPolicies), len(got.MutatingBindings), got.PriorityClass != nil, got.BudgetOwner != nil)
			}
		})
	}
}

// TestOlderKubernetes renders the grace policy in the version that the cluster has, and leaves it out if it has none.
func TestOlderKubernetes(t *testing.T) {
	cases := map[string]struct{ has, want string }{
		"1.36":                    {has: "v1", want: "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\n"},
		"1.34 with its beta APIs": {has: "v1beta1", want: "apiVersion: admissionregistration.k8s.io/v1beta1\nkind: MutatingAdmissionPolicy\n"},
		"1.34":                    {has: "v1alpha0"},
	}
	for name, tc := range cases {
		got := render(t, "--kube-version", "1.34.0", "--api-versions", "admissionregistration.k8s.io/"+tc.has+"/MutatingAdmissionPolicy")
		if tc.want == "" && strings.Contains(got, "kind: MutatingAdmissionPolicy") || !strings.Contains(got, tc.want) {
			t.Errorf("with the APIs of %s, want %q, got:\n%s", name, tc.want, got)
		}
	}
}

// render renders the chart's admission policies.
func render(t *testing.T, flags ...string) string {
	t.Helper()
	out, complaints, err := helm(t, append([]string{"--show-only", "templates/doors/*.yaml"}, flags...)...)
	if err != nil {
		t.Fatalf("helm template: %v\n%s", err, complaints)
	}
	return strings.ReplaceAll(out, "    app.kubernetes.io/managed-by: Helm\n", "") // as hack/update-manifests.sh does
}

// helm renders the chart with these flags.
func helm(t *testing.T, flags ...string) (out, complaints string, err error) {
	t.Helper()
	// The go command caches test results, and only knows about files that the test itself has opened.
	if err := fs.WalkDir(os.DirFS("../charts/callguard"), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			_, err = os.Stat("../charts/callguard/" + path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), helmProgram, append([]string{"template", "callguard", "charts/callguard"}, flags...)...)
	cmd.Dir = ".."
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}
