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

// viewerRole is the ClusterRole of the chart that has every right to read what doctor and
// why read. Whoever has ClusterRole view has it, too.
const viewerRole = "callguard-viewer"

// operatorRole is the one that has what drain needs beside.
const operatorRole = "callguard-operator"

// inNeed says after an error about missing rights which they are, and who has them.
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

// forbidden reports whether an error is, in all its parts, about missing rights.
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

// unchecked says why something was not checked: which rights are missing, where that is
// why, and who has them.
func unchecked(err error) string {
	if needs := needed(err); forbidden(err) && len(needs) > 0 {
		return fmt.Sprintf("not checked: you need the right to %s; ClusterRole %s has it", strings.Join(needs, ", "), viewerRole)
	}
	return "not checked: " + err.Error()
}

// needed are the rights that an error says are missing.
func needed(err error) []string {
	// As kube-apiserver and every server built like it words it.
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

// memberOf reports whether whoever asks is in a group, and false where the server does
// not tell.
func (c *cluster) memberOf(ctx context.Context, group string) bool {
	review, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	return err == nil && slices.Contains(review.Status.UserInfo.Groups, group)
}
