// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

// Files names the files with the credentials of a project.
type Files struct {
	// URL is the URL itself, or URLFile names the file that has it.
	URL, URLFile        string
	KeyFile, SecretFile string
	// Dir is a folder that holds all three, such as that of a mounted Secret, in files with
	// the names in Keys. It replaces the other fields.
	Dir  string
	Keys call.SecretKeys
}

// Validate reports flags that contradict each other. keys is the value of
// --livekit-secret-keys.
func (f Files) Validate(keys string) error {
	if _, err := call.ParseSecretKeys(keys); err != nil {
		return fmt.Errorf("--livekit-secret-keys is %w", err)
	}
	if keys != "" && f.Dir == "" {
		return fmt.Errorf("--livekit-secret-keys is %q, of no folder; use it with --livekit-secret-dir, such as /etc/livekit", keys)
	}
	if f.Dir != "" && (f.URL != "" || f.URLFile != "" || f.KeyFile != "" || f.SecretFile != "") {
		return fmt.Errorf("--livekit-secret-dir is %q; use either this or --livekit-url, --livekit-url-file, --livekit-api-key-file and --livekit-api-secret-file", f.Dir)
	}
	return nil
}

// FileCredentials returns a function that reads a project's credentials from their files
// each time, so that they can change. It returns nil if there is no URL, and so no such
// project. It is not known since when the files have named their server.
func FileCredentials(f Files) func(context.Context) (Version, error) {
	if f.URL == "" && f.URLFile == "" && f.Dir == "" {
		return nil
	}
	return func(context.Context) (Version, error) {
		f := f
		if f.Dir != "" {
			keys, err := f.Keys.Among(func(key string) bool {
				_, err := os.Stat(filepath.Join(f.Dir, key))
				return err == nil
			})
			if err != nil {
				return Version{}, fmt.Errorf("the Secret of the default LiveKit project is not complete in %s: %w; see --livekit-secret-keys", f.Dir, err)
			}
			f.URLFile, f.KeyFile, f.SecretFile = filepath.Join(f.Dir, keys.URL), filepath.Join(f.Dir, keys.APIKey), filepath.Join(f.Dir, keys.APISecret)
		}
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

// SecretCredentials returns a function that reads a project's credentials from the keys of
// a Secret.
func SecretCredentials(client kubernetes.Interface) func(context.Context, types.NamespacedName, call.SecretKeys) (Version, error) {
	return func(ctx context.Context, name types.NamespacedName, keys call.SecretKeys) (Version, error) {
		secret, err := client.CoreV1().Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		if err != nil {
			return Version{}, fmt.Errorf("cannot read Secret %s: %w; create it with keys LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, and let callguard get it", name, err)
		}
		found, err := keys.Among(func(key string) bool {
			_, there := secret.Data[key]
			return there
		})
		if err != nil {
			return Version{}, fmt.Errorf("cannot use Secret %s: %w; add it, or name the keys there are in annotation %s of the pod template", name, err, call.SecretKeysAnnotation)
		}
		return versionOf(secret, found), nil
	}
}
