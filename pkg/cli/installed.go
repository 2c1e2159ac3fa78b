// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/callguard/callguard/manifests"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/leader"
)

// installs is the command that installs callguard.
const installs = "helm install callguard charts/callguard --namespace callguard-system --create-namespace"

// absent reports whether callguard is not installed at all: no guard, no policy, no lease
// that a guard holds. What may not be read may exist.
func (c *cluster) absent(ctx context.Context, a administered) bool {
	if _, err := c.client.AppsV1().Deployments(c.callguard).Get(ctx, call.GuardName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return false
	}
	lease, err := c.client.CoordinationV1().Leases(c.callguard).Get(ctx, leader.LeaseName, metav1.GetOptions{})
	if err == nil {
		if holder := ptr.Deref(lease.Spec.HolderIdentity, ""); holder != "" && holder != leader.UnlockHolder {
			return false
		}
	} else if !apierrors.IsNotFound(err) {
		return false
	}
	want, err := manifests.Parse(a.doors)
	if err != nil {
		return false
	}
	for _, p := range want.Policies {
		if _, err := c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, p.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return false
		}
	}
	return true
}

// notInstalled returns the finding that callguard is not installed, and how to install it.
func notInstalled(a administered, guarded []*corev1.Pod) finding {
	what := fmt.Sprintf("it is not installed: there is no Deployment %s/%s, and no admission policy of callguard's", a.doors.Namespace, call.GuardName)
	if len(guarded) > 0 {
		what += fmt.Sprintf("; nothing holds the calls of %s, such as %s/%s", plural(len(guarded), "guarded pod"), guarded[0].Namespace, guarded[0].Name)
	}
	return finding{fail, "callguard", what, "to install it: " + installs}
}
