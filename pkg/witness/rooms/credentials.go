// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// FileCredentials reads a project's key and secret from their files each time, so
// that they can be changed. It is nil without a URL: there is no such project.
func FileCredentials(url, keyFile, secretFile string) func(context.Context) (Credentials, error) {
	if url == "" {
		return nil
	}
	return func(context.Context) (Credentials, error) {
		key, keyErr := os.ReadFile(keyFile)
		secret, secretErr := os.ReadFile(secretFile)
		return Credentials{
			URL:       url,
			APIKey:    strings.TrimSpace(string(key)),
			APISecret: strings.TrimSpace(string(secret)),
		}, errors.Join(keyErr, secretErr)
	}
}

// SecretCredentials reads a project from a Secret with the keys url, api-key and
// api-secret.
func SecretCredentials(client kubernetes.Interface) func(context.Context, types.NamespacedName) (Credentials, error) {
	return func(ctx context.Context, name types.NamespacedName) (Credentials, error) {
		secret, err := client.CoreV1().Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		if err != nil {
			return Credentials{}, fmt.Errorf("cannot read Secret %s: %w; create it with keys url, api-key and api-secret, and let callguard get it", name, err)
		}
		field := func(key string) string { return strings.TrimSpace(string(secret.Data[key])) }
		return Credentials{URL: field("url"), APIKey: field("api-key"), APISecret: field("api-secret")}, nil
	}
}
