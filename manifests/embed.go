// SPDX-License-Identifier: Apache-2.0

// Package manifests holds the admission policies as the chart renders them, so that drain-guard can
// compare those of its cluster with them. The code calls them doors. It does not read a cluster.
package manifests

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

//go:embed doors.yaml
var doors string

// The default values with which the chart renders the policies.
const (
	DefaultNamespace       = "callguard-system"
	DefaultBreakGlassGroup = "callguard:break-glass"
	DefaultPriority        = 1000000
	DefaultAccount         = "drain-guard"
)

// Values are the chart's values that appear in the policies.
type Values struct {
	Namespace       string // drain-guard's namespace
	Account         string // drain-guard's service account, in that namespace
	BreakGlassGroup string
	Priority        int32 // of PriorityClass callguard-calls
}

// DefaultValues returns the values of the files in this folder.
func DefaultValues() Values {
	return Values{Namespace: DefaultNamespace, Account: DefaultAccount, BreakGlassGroup: DefaultBreakGlassGroup, Priority: DefaultPriority}
}

// Doors are the admission policies and their bindings, which protect calls even when no
// process of callguard runs. Every field that the API server would default is set, so that
// each spec equals that of the object in the cluster.
type Doors struct {
	Policies         []*admissionregistrationv1.ValidatingAdmissionPolicy
	Bindings         []*admissionregistrationv1.ValidatingAdmissionPolicyBinding
	MutatingPolicies []*admissionregistrationv1.MutatingAdmissionPolicy
	MutatingBindings []*admissionregistrationv1.MutatingAdmissionPolicyBinding
	PriorityClass    *schedulingv1.PriorityClass
	// BudgetOwner owns every PodDisruptionBudget that drain-guard creates.
	BudgetOwner *rbacv1.ClusterRole
}

// Parse returns the policies as the chart renders them with these values.
func Parse(v Values) (*Doors, error) {
	text := strings.NewReplacer(
		"system:serviceaccount:"+DefaultNamespace+":"+DefaultAccount, "system:serviceaccount:"+v.Namespace+":"+v.Account,
		DefaultBreakGlassGroup, v.BreakGlassGroup,
		strconv.Itoa(DefaultPriority), strconv.Itoa(int(v.Priority)),
		"app.kubernetes.io/version: "+development+"\n", "app.kubernetes.io/version: "+Version()+"\n",
	).Replace(doors)
	return parse(text)
}

func parse(text string) (*Doors, error) {
	d := &Doors{}
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return d, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the doors: %w", err)
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if runtime.IsMissingKind(err) {
			continue // the comment at the beginning of the file
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the doors: %w", err)
		}
		switch o := object.(type) {
		case *admissionregistrationv1.ValidatingAdmissionPolicy:
			d.Policies = append(d.Policies, o)
		case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
			d.Bindings = append(d.Bindings, o)
		case *admissionregistrationv1.MutatingAdmissionPolicy:
			d.MutatingPolicies = append(d.MutatingPolicies, o)
		case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
			d.MutatingBindings = append(d.MutatingBindings, o)
		case *schedulingv1.PriorityClass:
			d.PriorityClass = o
		case *rbacv1.ClusterRole:
			d.BudgetOwner = o
		default:
			return nil, fmt.Errorf("cannot read the doors: there is a %T among them", object)
		}
	}
}
