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

	"github.com/callguard/callguard/pkg/livekit"
)

// Files say where the credentials of a project stand.
type Files struct {
	// URL is the URL itself, or URLFile names the file that has it.
	URL, URLFile        string
	KeyFile, SecretFile string
}

// FileCredentials reads a project's credentials from their files each time, so that
// they can change. It is nil without a URL: there is no such project. Since when the
// files name their server nobody knows.
func FileCredentials(f Files) func(context.Context) (Version, error) {
	if f.URL == "" && f.URLFile == "" {
		return nil
	}
	return func(context.Context) (Version, error) {
		var errs []error
		read := func(name string) string {
			text, err := os.ReadFile(name)
			errs = append(errs, err)
			return strings.TrimSpace(string(text))
		}
		v := Version{Credentials: livekit.Credentials{URL: f.URL, APIKey: read(f.KeyFile), APISecret: read(f.SecretFile)}}
		if f.URLFile != "" {
			v.URL = read(f.URLFile)
		}
		return v, errors.Join(errs...)
	}
}

// SecretCredentials reads a project from a Secret with the keys url, api-key and
// api-secret.
func SecretCredentials(client kubernetes.Interface) func(context.Context, types.NamespacedName) (Version, error) {
	return func(ctx context.Context, name types.NamespacedName) (Version, error) {
		secret, err := client.CoreV1().Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		if err != nil {
			return Version{}, fmt.Errorf("cannot read Secret %s: %w; create it with keys url, api-key and api-secret, and let callguard get it", name, err)
		}
		return versionOf(secret), nil
	}
}
