// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/callguard/callguard/test/trial"
)

const policiesPage = "../../docs/reference/policies.md"

// policy is what a reader wants to know of an admission policy.
type policy struct {
	matches, only, actions, parameter string
}

// TestPoliciesReference: docs/reference/policies.md has every admission policy of manifests/, what it matches, and a sentence on
// what it refuses. It has no other.
func TestPoliciesReference(t *testing.T) {
	policies := installed(t)
	names := slices.Sorted(maps.Keys(policies))
	var table strings.Builder
	table.WriteString("| policy | judges | only | action | parameter |\n|---|---|---|---|---|\n")
	for _, name := range names {
		p := policies[name]
		if p.actions == "" {
			t.Errorf("%s has no binding, so it is never in effect", name)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", name, p.matches, p.only, p.actions, p.parameter)
	}
	trial.Documented(t, policiesPage, "policies", table.String(), *update)

	text, err := os.ReadFile(policiesPage)
	trial.Must(t, err)
	by, _, _ := strings.Cut(string(text), "<!-- policies: begin -->")
	var explained []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(by, -1) {
		explained = append(explained, m[1])
	}
	slices.Sort(explained)
	if diff := cmp.Diff(names, explained); diff != "" {
		t.Errorf("the first table of %s should have a row for each policy of manifests/ (-manifests, +page):\n%s", policiesPage, diff)
	}
}

// installed returns the admission policies of manifests/ by name.
func installed(t *testing.T) map[string]*policy {
	t.Helper()
	policies := map[string]*policy{}
	of := func(name string) *policy {
		if policies[name] == nil {
			policies[name] = &policy{}
		}
		return policies[name]
	}
	files, err := filepath.Glob("../../manifests/*.yaml")
	trial.Must(t, err)
	for _, file := range files {
		for _, o := range decode(t, file) {
			switch o := o.(type) {
			case *admissionregistrationv1.ValidatingAdmissionPolicy:
				p := of(o.Name)
				p.matches, p.only = matches(o.Spec.MatchConstraints), only(o.Spec.MatchConstraints)
				if o.Spec.ParamKind != nil {
					p.parameter = o.Spec.ParamKind.Kind
				}
			case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
				var actions []string
				for _, a := range o.Spec.ValidationActions {
					actions = append(actions, string(a))
				}
				of(o.Spec.PolicyName).actions = strings.Join(actions, ", ")
				if o.Spec.ParamRef != nil {
					of(o.Spec.PolicyName).parameter += " `" + o.Spec.ParamRef.Name + "`"
				}
			case *admissionregistrationv1.MutatingAdmissionPolicy:
				p := of(o.Name)
				p.matches, p.only = matches(o.Spec.MatchConstraints), only(o.Spec.MatchConstraints)
			case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
				of(o.Spec.PolicyName).actions = "Mutate"
			}
		}
	}
	return policies
}

// decode returns the objects of a file that are of Kubernetes' own kinds.
func decode(t *testing.T, file string) []runtime.Object {
	t.Helper()
	text, err := os.ReadFile(file)
	trial.Must(t, err)
	decoder := scheme.Codecs.UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(string(text))))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		trial.Must(t, err)
		o, _, err := decoder.Decode(document, nil, nil)
		switch {
		case runtime.IsNotRegisteredError(err), runtime.IsMissingKind(err): // such as a PrometheusRule; a head of comments
		case err != nil:
			t.Fatalf("%s: %v", file, err)
		default:
			objects = append(objects, o)
		}
	}
}

// matches names the operations and resources that a policy judges.
func matches(m *admissionregistrationv1.MatchResources) string {
	var rules []string
	for _, r := range m.ResourceRules {
		var verbs []string
		for _, o := range r.Operations {
			verbs = append(verbs, string(o))
		}
		rules = append(rules, strings.Join(verbs, ", ")+" of `"+strings.Join(r.Resources, "`, `")+"`")
	}
	return cell(strings.Join(rules, "; "))
}

// only names the labels that an object or its namespace must have for the policy to judge it.
func only(m *admissionregistrationv1.MatchResources) string {
	var conditions []string
	for of, s := range map[string]*metav1.LabelSelector{"namespaces": m.NamespaceSelector, "objects": m.ObjectSelector} {
		if s != nil && len(s.MatchLabels)+len(s.MatchExpressions) > 0 {
			conditions = append(conditions, of+" with `"+metav1.FormatLabelSelector(s)+"`")
		}
	}
	slices.Sort(conditions)
	return cell(strings.Join(conditions, "; "))
}
