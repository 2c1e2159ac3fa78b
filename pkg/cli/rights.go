// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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

// memberOf reports whether whoever asks is in a group, and false where the server does
// not tell.
func (c *cluster) memberOf(ctx context.Context, group string) bool {
	review, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	return err == nil && slices.Contains(review.Status.UserInfo.Groups, group)
}
