// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/livekit"
)

// Files say where the credentials of a project stand.
type Files struct {
	// URL is the URL itself, or URLFile names the file that has it.
	URL, URLFile        string
	KeyFile, SecretFile string
}

// FileCredentials reads a project's credentials from their files each time, so that
// they can change. It is nil without a URL: there is no such project.
func FileCredentials(f Files) func(context.Context) (livekit.Credentials, error) {
	if f.URL == "" && f.URLFile == "" {
		return nil
	}
	return func(context.Context) (livekit.Credentials, error) {
		var errs []error
		read := func(name string) string {
			text, err := os.ReadFile(name)
			errs = append(errs, err)
			return strings.TrimSpace(string(text))
		}
		c := livekit.Credentials{URL: f.URL, APIKey: read(f.KeyFile), APISecret: read(f.SecretFile)}
		if f.URLFile != "" {
			c.URL = read(f.URLFile)
		}
		return c, errors.Join(errs...)
	}
}

// SecretCredentials reads a project from a Secret with the keys url, api-key and
// api-secret.
func SecretCredentials(client kubernetes.Interface) func(context.Context, types.NamespacedName) (livekit.Credentials, error) {
	return func(ctx context.Context, name types.NamespacedName) (livekit.Credentials, error) {
		secret, err := client.CoreV1().Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		if err != nil {
			return livekit.Credentials{}, fmt.Errorf("cannot read Secret %s: %w; create it with keys url, api-key and api-secret, and let callguard get it", name, err)
		}
		field := func(key string) string { return strings.TrimSpace(string(secret.Data[key])) }
		return livekit.Credentials{URL: field("url"), APIKey: field("api-key"), APISecret: field("api-secret")}, nil
	}
}

const (
	// keepEvery is how soon the Secret of a new project is read.
	keepEvery = 10 * time.Second
	// keptFor is how long what was read of it is not read again.
	keptFor = time.Minute
)

// Remembered are the credentials of Secrets, which may go before the pods do that
// need them: a release that ends or names another Secret takes the old one with it,
// or callguard's right to it, while its pods still finish their calls.
type Remembered struct {
	read func(context.Context, types.NamespacedName) (livekit.Credentials, error)

	mu   sync.Mutex
	kept map[types.NamespacedName]kept
}

type kept struct {
	livekit.Credentials

	at time.Time // when it was tried last
}

// Remember returns credentials that nothing is remembered of yet.
func Remember(read func(context.Context, types.NamespacedName) (livekit.Credentials, error)) *Remembered {
	return &Remembered{read: read, kept: map[types.NamespacedName]kept{}}
}

// Get reads a Secret, and returns what it said last where it cannot be read any more.
func (r *Remembered) Get(ctx context.Context, secret types.NamespacedName) (livekit.Credentials, error) {
	c, err := r.read(ctx, secret)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.kept[secret] = kept{c, time.Now()}
		return c, nil
	}
	if last, ok := r.kept[secret]; ok {
		r.kept[secret] = kept{last.Credentials, time.Now()}
		return last.Credentials, nil
	}
	return c, err
}

// Keep reads the Secrets of the projects that pods name, before anybody needs them,
// until ctx is done. Those that no pod names any more are forgotten.
func (r *Remembered) Keep(ctx context.Context, named func() map[call.Project]bool) error {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		secrets := map[types.NamespacedName]bool{}
		for project, read := range bounded(named(), nil) {
			if secret, ok := project.Secret(); ok && read {
				secrets[secret] = true
			}
		}
		r.mu.Lock()
		maps.DeleteFunc(r.kept, func(secret types.NamespacedName, k kept) bool {
			if secrets[secret] && time.Since(k.at) < keptFor {
				delete(secrets, secret)
				return false
			}
			return !secrets[secret]
		})
		r.mu.Unlock()
		for secret := range secrets {
			_, _ = r.Get(ctx, secret) // who needs it asks again, and says why it cannot be read
		}
	}, keepEvery)
	return nil
}
