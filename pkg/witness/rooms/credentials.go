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

// Files say where the credentials of a project stand.
type Files struct {
	// URL is the URL itself, or URLFile names the file that has it.
	URL, URLFile        string
	KeyFile, SecretFile string
}

// FileCredentials reads a project's credentials from their files each time, so that
// they can change. It is nil without a URL: there is no such project.
func FileCredentials(f Files) func(context.Context) (Credentials, error) {
	if f.URL == "" && f.URLFile == "" {
		return nil
	}
	return func(context.Context) (Credentials, error) {
		var errs []error
		read := func(name string) string {
			text, err := os.ReadFile(name)
			errs = append(errs, err)
			return strings.TrimSpace(string(text))
		}
		c := Credentials{URL: f.URL, APIKey: read(f.KeyFile), APISecret: read(f.SecretFile)}
		if f.URLFile != "" {
			c.URL = read(f.URLFile)
		}
		return c, errors.Join(errs...)
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
