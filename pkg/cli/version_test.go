// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
)

// otherVersion turns the policies into those of another chart: their texts differ, and what they protect does not.
func otherVersion(t *testing.T, s *stage) {
	t.Helper()
	policies := s.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	list, err := policies.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		p.Labels["app.kubernetes.io/version"] = "9.9.9"
		for i := range p.Spec.Validations {
			p.Spec.Validations[i].Message = "in other words"
			if p.Name == "callguard-birth-advice" {
				p.Spec.Validations[i].Expression = "true"
			}
		}
		if _, err := policies.Update(t.Context(), &p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVersions(t *testing.T) {
	adapter := newGuardDeployment()
	adapter.Name, adapter.Spec.Template.Spec.Containers[0].Name, adapter.Spec.Template.Spec.Containers[0].Image = call.AdapterName, call.AdapterName, "example.org/callguard:9.9.8"
	cases := map[string]struct {
		reason string
		stage  *stage
		change func(*stage)
		output string
		want   string
	}{
		"Installed": {
			reason: "Both sides, each by itself.", stage: newStage(t, newGuardDeployment(), adapter), change: func(s *stage) { otherVersion(t, s) },
			want: "plugin            dev\npolicies          9.9.9\ndrain-guard       callguard:dev\nmetrics-adapter   example.org/callguard:9.9.8\n",
		},
		"Nothing": {
			reason: "As doctor says it.", stage: newBareStage(t),
			want: "plugin            dev\npolicies          not installed\ndrain-guard       not installed\nmetrics-adapter   not installed\n",
		},
		"NoRights": {
			reason: "What may not be read is unknown.", stage: newStage(t, newGuardDeployment()), change: func(s *stage) { s.refuse("get", "deployments") }, output: outputJSON,
			want: "{\n    \"plugin\": \"dev\",\n    \"policies\": \"dev\",\n    \"drainGuard\": \"not known: deployments is forbidden: no right to get\",\n    \"metricsAdapter\": \"not known: deployments is forbidden: no right to get\"\n}\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.change != nil {
				tc.change(tc.stage)
			}
			v := tc.stage.versions(t.Context())
			v.Revision = "" // of this checkout
			var out bytes.Buffer
			if err := printVersions(&out, v, tc.output); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestOtherVersion has a plugin and policies of two versions, with different texts: that is reported, and nothing is refused.
func TestOtherVersion(t *testing.T) {
	s := newDrainStage(t)
	otherVersion(t, s)
	var out bytes.Buffer
	if err := report(&out, s.examine(t.Context(), ""), ""); !errors.Is(err, errWarned) {
		t.Errorf("it ends with %v:\n%s", err, out.String())
	}
	const want = "WARN versions plugin dev, policies 9.9.9, drain-guard callguard:dev, metrics-adapter not installed; use the plugin of the version that is installed, or upgrade the chart\n"
	if !strings.Contains(squeeze(out.String()), want) {
		t.Errorf("it does not say %q:\n%s", want, out.String())
	}
	if _, err := admission.Check(t.Context(), s.client, manifests.DefaultValues()); err != nil {
		t.Errorf("policies with other texts count as different: %v", err)
	}
	(&evictions{answer: func(string, int) error { return nil }}).on(s)
	common, _, _ := newCommon()
	if err := (&drainOptions{common: common, pace: pace}).run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Errorf("the drain ends with %v", err)
	}
}
