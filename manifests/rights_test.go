// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestRightsThatAreGone: docs/reference/rights.md lists no right that the accounts do not have.
func TestRightsThatAreGone(t *testing.T) {
	has := map[string]bool{ // rights of two roles of Kubernetes itself, see metrics-adapter's Bindings
		"create tokenreviews": true, "create subjectaccessreviews": true, "get configmap": true, "list configmap": true, "watch configmap": true,
	}
	beside := []string{"--set", "metricsAdapter.mode=compose", "--set", "metricsAdapter.compose.insecure=true",
		"--set", "metricsAdapter.compose.service.namespace=monitoring", "--set", "metricsAdapter.compose.service.name=prometheus-adapter"}
	for _, o := range slices.Concat(chart(t), chart(t, beside...)) {
		for _, rule := range rulesOf(t, o) {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					has[verb+" "+resource] = true
					if resource == "*" {
						has[verb+" "+rule.APIGroups[0]] = true
					}
				}
			}
		}
	}
	text, err := os.ReadFile("../docs/reference/rights.md")
	if err != nil {
		t.Fatal(err)
	}
	has["get Secrets"] = true                          // tenants' charts grant it, see TestAddOnMayReadOneSecret of test/charts
	has["get pods/active_calls"] = true                // with test.namespace
	aside := regexp.MustCompile("`[^`]*`|\\([^)]*\\)") // names of objects, explanations
	where := regexp.MustCompile(` (in|alone|that) ?.*| alone`)
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	named := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[1]) == "right" || strings.TrimSpace(cells[1]) == "who" {
			continue
		}
		right := cells[1]
		if !strings.Contains(right, ":") {
			right = cells[2] // the table of others has the account first
		}
		var resources []string
		for clause := range strings.SplitSeq(aside.ReplaceAllString(right, ""), ";") {
			of, may, found := strings.Cut(clause, ":")
			if !found {
				t.Errorf("docs/reference/rights.md has a row with %q; write RESOURCES: VERBS", clause)
				continue
			}
			var these []string
			for resource := range strings.FieldsFuncSeq(strings.ReplaceAll(where.ReplaceAllString(of, ""), " and ", ","), func(r rune) bool { return r == ',' }) {
				if resource = strings.TrimPrefix(strings.TrimSpace(resource), "the two "); resource != "" {
					these = append(these, resource)
				}
			}
			if len(these) > 0 { // otherwise a name of the previous clause's resources
				resources = these
			}
			for verb := range strings.FieldsFuncSeq(may, func(r rune) bool { return r == ',' || r == ' ' }) {
				for _, resource := range resources {
					named++
					if !slices.Contains(verbs, verb) || !has[verb+" "+resource] {
						t.Errorf("docs/reference/rights.md says %s of %s, which no account has; remove it", verb, resource)
					}
				}
			}
		}
	}
	if named < 80 {
		t.Errorf("only %d rights were read from docs/reference/rights.md", named)
	}
}
