// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// viewerRole is the chart's ClusterRole with all rights that doctor and why need. It is
// aggregated into ClusterRole view.
const viewerRole = "callguard-viewer"

// operatorRole is the one with the additional rights that drain needs.
const operatorRole = "callguard-operator"

// inNeed returns, for an error about missing rights, which they are, and which roles have
// them.
func inNeed(args []string, err error) string {
	needs := needed(err)
	if len(needs) == 0 {
		return ""
	}
	role := viewerRole
	if slices.Contains(args, "drain") {
		role = operatorRole
	}
	text := "\nyou need the right to " + strings.Join(needs, ", ")
	if slices.Contains(args, "end") || strings.Contains(err.Error(), role) {
		return text
	}
	return text + "; ClusterRole " + role + " has it"
}

// forbidden reports whether all parts of an error are about missing rights.
func forbidden(err error) bool {
	if err == nil {
		return false
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, part := range joined.Unwrap() {
			if !forbidden(part) {
				return false
			}
		}
		return true
	}
	return apierrors.IsForbidden(err)
}

// unchecked returns why something was not checked. For missing rights it names them, and
// which roles have them.
func unchecked(err error) string {
	if needs := needed(err); forbidden(err) && len(needs) > 0 {
		return fmt.Sprintf("not checked: you need the right to %s; ClusterRole %s has it", strings.Join(needs, ", "), viewerRole)
	}
	return "not checked: " + err.Error()
}

// needed returns the rights that are missing according to an error.
func needed(err error) []string {
	// This is the wording of kube-apiserver and of servers that use its library.
	says := regexp.MustCompile(`cannot (\S+) resource "([^"]*)" in API group "([^"]*)"(?: in the namespace "([^"]*)")?`)
	var list []string
	var look func(error)
	look = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, part := range joined.Unwrap() {
				look(part)
			}
			return
		}
		var status *apierrors.StatusError
		if !errors.As(err, &status) {
			return
		}
		m := says.FindStringSubmatch(status.ErrStatus.Message)
		if m == nil {
			return
		}
		right := m[1] + " " + m[2]
		if m[3] != "" {
			right += "." + m[3]
		}
		if m[4] != "" {
			right += " in namespace " + m[4]
		}
		if !slices.Contains(list, right) {
			list = append(list, right)
		}
	}
	look(err)
	return list
}

// memberOf reports whether the user is in a group; false if the server does not tell.
func (c *cluster) memberOf(ctx context.Context, group string) bool {
	review, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	return err == nil && slices.Contains(review.Status.UserInfo.Groups, group)
}
