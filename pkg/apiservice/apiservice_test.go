// SPDX-License-Identifier: Apache-2.0

package apiservice

import (
	"testing"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

func TestStanding(t *testing.T) {
	ours := &apiregistrationv1.ServiceReference{Namespace: "callguard-system", Name: "metrics-adapter"}
	condition := func(status apiregistrationv1.ConditionStatus, reason, message string) []apiregistrationv1.APIServiceCondition {
		return []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: message}}
	}
	for name, tc := range map[string]struct {
		service    *apiregistrationv1.ServiceReference
		conditions []apiregistrationv1.APIServiceCondition
		owner, why string
	}{
		"Available": {ours, condition(apiregistrationv1.ConditionTrue, "Passed", "all checks passed"), "callguard-system/metrics-adapter", ""},
		"Local":     {nil, condition(apiregistrationv1.ConditionTrue, "Local", ""), "", ""},
		"Down":      {ours, condition(apiregistrationv1.ConditionFalse, "MissingEndpoints", "no endpoints"), "callguard-system/metrics-adapter", "MissingEndpoints: no endpoints"},
		"Silent":    {ours, condition(apiregistrationv1.ConditionUnknown, "", ""), "callguard-system/metrics-adapter", "Unknown: "},
		"New":       {ours, nil, "callguard-system/metrics-adapter", "it has no condition Available yet; is kube-apiserver's aggregator running?"},
	} {
		s := &apiregistrationv1.APIService{Spec: apiregistrationv1.APIServiceSpec{Service: tc.service}, Status: apiregistrationv1.APIServiceStatus{Conditions: tc.conditions}}
		if owner, why := Owner(s), Unavailable(s); owner != tc.owner || why != tc.why {
			t.Errorf("%s: %q, %q; want %q, %q", name, owner, why, tc.owner, tc.why)
		}
	}
}
