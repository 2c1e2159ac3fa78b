// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/manifests"
)

// What it means if policy callguard-grace is missing, and what to do if the cluster could
// have it. The chart does not render it for a cluster that cannot, so after an upgrade of
// the cluster it is still missing.
const (
	WithoutGrace = "an eviction may shorten the grace of a released pod"
	GraceCure    = "helm upgrade the chart; helm template needs the cluster's version, --kube-version 1.36.0 or newer"
)

// standing has functions that read a cluster's admission policies and bindings by name. The
// last two are nil if the cluster has no mutating policies.
type standing struct {
	policy          func(string) (*admissionregistrationv1.ValidatingAdmissionPolicy, error)
	binding         func(string) (*admissionregistrationv1.ValidatingAdmissionPolicyBinding, error)
	mutatingPolicy  func(string) (*admissionregistrationv1.MutatingAdmissionPolicy, error)
	mutatingBinding func(string) (*admissionregistrationv1.MutatingAdmissionPolicyBinding, error)
}

// graceless reports whether policy callguard-grace is missing completely, although the
// cluster could have it. That only weakens released pods, so it stops nothing. If only the
// policy or only its binding is missing, that counts as a difference.
func (s standing) graceless(want *manifests.Doors) bool {
	if s.mutatingPolicy == nil {
		return false
	}
	for _, want := range want.MutatingPolicies {
		if _, err := s.mutatingPolicy(want.Name); !apierrors.IsNotFound(err) {
			return false
		}
	}
	for _, want := range want.MutatingBindings {
		if _, err := s.mutatingBinding(want.Name); !apierrors.IsNotFound(err) {
			return false
		}
	}
	return true
}

// differs returns which policies are missing or weaker than they should be. callguard-grace
// may be missing. Policies that only warn, and the wording of refusals, do not matter.
func (s standing) differs(want *manifests.Doors) error {
	var errs []error
	check := func(kind string, want metav1.Object, is metav1.Object, err error, holds func() bool) {
		switch {
		case apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("%s %s is missing", kind, want.GetName()))
		case err != nil:
			errs = append(errs, fmt.Errorf("cannot read %s %s: %w", kind, want.GetName(), err))
		case !holds():
			errs = append(errs, fmt.Errorf("%s %s is not as this version of callguard has it (it is of %s, this is %s)",
				kind, want.GetName(), Version(is), Version(want)))
		}
	}
	advice := map[string]bool{}
	for _, want := range want.Bindings {
		advice[want.Spec.PolicyName] = !slices.Contains(want.Spec.ValidationActions, admissionregistrationv1.Deny)
	}
	for _, want := range want.Policies {
		if advice[want.Name] {
			continue
		}
		is, err := s.policy(want.Name)
		check("ValidatingAdmissionPolicy", want, is, err, func() bool { return policyHolds(want.Spec, is.Spec) })
	}
	for _, want := range want.Bindings {
		if advice[want.Spec.PolicyName] {
			continue
		}
		is, err := s.binding(want.Name)
		check("ValidatingAdmissionPolicyBinding", want, is, err, func() bool { return bindingHolds(want.Spec, is.Spec) })
	}
	if s.mutatingPolicy == nil || s.graceless(want) {
		return errors.Join(errs...)
	}
	for _, want := range want.MutatingPolicies {
		is, err := s.mutatingPolicy(want.Name)
		check("MutatingAdmissionPolicy", want, is, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) })
	}
	for _, want := range want.MutatingBindings {
		is, err := s.mutatingBinding(want.Name)
		check("MutatingAdmissionPolicyBinding", want, is, err, func() bool { return equality.Semantic.DeepEqual(want.Spec, is.Spec) })
	}
	return errors.Join(errs...)
}

// policyHolds reports whether a policy refuses everything that the wanted one refuses, as
// far as that can be compared: it matches the same requests, and has each expression of the
// wanted one literally. One with more expressions is stricter.
func policyHolds(want, is admissionregistrationv1.ValidatingAdmissionPolicySpec) bool {
	expressions := map[string]bool{}
	for _, v := range is.Validations {
		expressions[v.Expression] = true
	}
	for _, v := range want.Validations {
		if !expressions[v.Expression] {
			return false
		}
	}
	for _, v := range want.Variables {
		if !slices.Contains(is.Variables, v) {
			return false
		}
	}
	return equality.Semantic.DeepEqual(want.FailurePolicy, is.FailurePolicy) && equality.Semantic.DeepEqual(want.ParamKind, is.ParamKind) &&
		equality.Semantic.DeepEqual(want.MatchConstraints, is.MatchConstraints) && equality.Semantic.DeepEqual(want.MatchConditions, is.MatchConditions)
}

// bindingHolds reports whether a binding applies the same policy to the same requests, with
// the same parameters and at least the same actions, as the wanted one.
func bindingHolds(want, is admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) bool {
	for _, action := range want.ValidationActions {
		if !slices.Contains(is.ValidationActions, action) {
			return false
		}
	}
	return want.PolicyName == is.PolicyName && equality.Semantic.DeepEqual(want.ParamRef, is.ParamRef) && equality.Semantic.DeepEqual(want.MatchResources, is.MatchResources)
}

// versionLabel is the label with the version of the chart from which a policy comes.
const versionLabel = "app.kubernetes.io/version"

// Version returns the version of callguard from which a policy or binding comes, by its
// label.
func Version(door metav1.Object) string {
	return cmp.Or(door.GetLabels()[versionLabel], "an unknown version")
}

// Check reads the policies of a cluster once, and returns which of them are missing or weaker than they should be; nil if none
// is. callguard-grace may be missing; graceless reports that if the cluster could have it. TryDelete checks whether the API
// server applies the policies.
func Check(ctx context.Context, client kubernetes.Interface, values manifests.Values) (graceless bool, err error) {
	want, err := manifests.Parse(values)
	if err != nil {
		return false, err
	}
	serves, err := servesMutating(client)
	if err != nil {
		return false, err
	}
	admission := client.AdmissionregistrationV1()
	is := standing{
		policy: func(name string) (*admissionregistrationv1.ValidatingAdmissionPolicy, error) {
			return admission.ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		},
		binding: func(name string) (*admissionregistrationv1.ValidatingAdmissionPolicyBinding, error) {
			return admission.ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		},
	}
	if serves {
		is.mutatingPolicy = func(name string) (*admissionregistrationv1.MutatingAdmissionPolicy, error) {
			return admission.MutatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		}
		is.mutatingBinding = func(name string) (*admissionregistrationv1.MutatingAdmissionPolicyBinding, error) {
			return admission.MutatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		}
	}
	return is.graceless(want), is.differs(want)
}
