// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

// TestNamesOfKeys reads the same keys from a Secret and from the folder where it is mounted.
func TestNamesOfKeys(t *testing.T) {
	t.Parallel()
	full := livekit.Credentials{URL: "wss://livekit.example.com", APIKey: "key", APISecret: "secret"}
	for name, tc := range map[string]struct {
		reason string
		data   map[string]string
		keys   call.SecretKeys
		want   livekit.Credentials
		wrong  string
	}{
		"Ours": {
			reason: "callguard's own names.", want: full,
			data: map[string]string{"url": "wss://livekit.example.com\n", "api-key": "key\n", "api-secret": "secret"},
		},
		"LiveKits": {
			reason: "The Secret that LiveKit documents.", want: full,
			data: map[string]string{"LIVEKIT_URL": "wss://livekit.example.com", "LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "secret"},
		},
		"Both": {
			reason: "An older Secret, to which LiveKit's names were added, is read as before.", want: full,
			data: map[string]string{
				"url": "wss://livekit.example.com", "api-key": "key", "api-secret": "secret",
				"LIVEKIT_URL": "wss://other.example.com", "LIVEKIT_API_KEY": "other", "LIVEKIT_API_SECRET": "other",
			},
		},
		"Named": {
			reason: "Whatever they are called.", want: full, keys: call.SecretKeys{URL: "host", APIKey: "id", APISecret: "pass"},
			data: map[string]string{"host": "wss://livekit.example.com", "id": "key", "pass": "secret", "url": "wss://other.example.com"},
		},
		"Missing": {
			reason: "The error lists the missing keys, and where to set their names.", wrong: "there is no key api-secret or LIVEKIT_API_SECRET",
			data: map[string]string{"url": "wss://livekit.example.com", "api-key": "key"},
		},
		"NamedMissing": {
			reason: "A name that is not there is no reason to read another.", keys: call.SecretKeys{APISecret: "pass"}, wrong: "there is no key pass",
			data: map[string]string{"url": "wss://livekit.example.com", "api-key": "key", "api-secret": "secret"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "voice", Name: "livekit"}, Data: map[string][]byte{}}
			dir := t.TempDir()
			for key, value := range tc.data {
				secret.Data[key] = []byte(value)
				if err := os.WriteFile(filepath.Join(dir, key), []byte(value), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			check := func(from, next string, v Version, err error) {
				t.Helper()
				if (err != nil) != (tc.wrong != "") || err != nil && (!strings.Contains(err.Error(), tc.wrong) || !strings.Contains(err.Error(), next)) {
					t.Fatalf("%s %s: %v; want %q", tc.reason, from, err, tc.wrong)
				}
				if diff := cmp.Diff(tc.want, v.Credentials); diff != "" {
					t.Errorf("%s %s (-want +got)\n%s", tc.reason, from, diff)
				}
			}
			v, err := FileCredentials(Files{Dir: dir, Keys: tc.keys})(t.Context())
			check("the folder", "--livekit-secret-keys", v, err)
			v, err = SecretCredentials(fake.NewClientset(secret))(t.Context(), types.NamespacedName{Namespace: "voice", Name: "livekit"}, tc.keys)
			check("the Secret", "annotation callguard.dev/livekit-secret-keys", v, err)
		})
	}
}

// TestFolderThatFillsLater: the Secret may be created, and completed, after the program has
// started.
func TestFolderThatFillsLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	read := FileCredentials(Files{Dir: dir})
	for _, file := range []string{"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"} {
		if _, err := read(t.Context()); err == nil {
			t.Errorf("without %s the project is complete", file)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte("ws://livekit:7880"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := read(t.Context()); err != nil {
		t.Error(err)
	}
}
