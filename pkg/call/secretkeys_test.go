// SPDX-License-Identifier: Apache-2.0

package call

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestParseSecretKeys(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason, value string
		want          SecretKeys
		wrong         string // named in the error
	}{
		"None":      {reason: "Nothing is named."},
		"All":       {reason: "Each of the three.", value: ExampleSecretKeys, want: SecretKeys{"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"}},
		"Some":      {reason: "Keys without a given name are searched for.", value: " api-secret = x", wrong: `" api-secret = x"`},
		"OneOfThem": {reason: "One is enough, with blanks around it.", value: " url=lk.url ", want: SecretKeys{URL: "lk.url"}},
		"Unknown":   {reason: "A misspelt one is not passed over.", value: "url=a,apikey=b", wrong: `"apikey=b"`},
		"NoName":    {reason: "Nor is one without a name.", value: "url=", wrong: `"url="`},
		"Twice":     {reason: "It is ambiguous which of the two applies.", value: "url=a,url=b", wrong: `"url=b"`},
		"Path":      {reason: "A name leads to no other folder.", value: "url=../token", wrong: `"url=../token"`},
		"Dots":      {reason: "Nor do dots.", value: "url=..", wrong: `"url=.."`},
		"NameAlone": {reason: "Which of the three it is has to be said.", value: "LIVEKIT_URL", wrong: `"LIVEKIT_URL"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSecretKeys(tc.value)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
			if (err != nil) != (tc.wrong != "") || err != nil && (!strings.Contains(err.Error(), tc.wrong) || !strings.Contains(err.Error(), ExampleSecretKeys)) {
				t.Errorf("%s got %v, want an error that names %s and a value that would work", tc.reason, err, tc.wrong)
			}
		})
	}
}

// TestAmong: the named keys come first, then callguard's names, then LiveKit's.
func TestAmong(t *testing.T) {
	t.Parallel()
	ours, livekits := []string{"url", "api-key", "api-secret"}, []string{"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"}
	for name, tc := range map[string]struct {
		reason string
		named  SecretKeys
		there  []string
		want   SecretKeys
		wrong  string
	}{
		"Ours":     {reason: "callguard's names.", there: ours, want: SecretKeys{"url", "api-key", "api-secret"}},
		"LiveKits": {reason: "LiveKit's own names.", there: livekits, want: SecretKeys{"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"}},
		"Both":     {reason: "Ours are read first.", there: append(slices.Clone(livekits), ours...), want: SecretKeys{"url", "api-key", "api-secret"}},
		"Named":    {reason: "A name wins over both.", named: SecretKeys{URL: "address"}, there: append([]string{"address"}, ours...), want: SecretKeys{"address", "api-key", "api-secret"}},
		"NotThere": {reason: "No other will do for one that is named.", named: SecretKeys{URL: "address"}, there: ours, want: SecretKeys{"", "api-key", "api-secret"}, wrong: "there is no key address"},
		"Missing":  {reason: "All that is missing is named.", there: []string{"url"}, want: SecretKeys{URL: "url"}, wrong: "there is no key api-key or LIVEKIT_API_KEY, and no key api-secret or LIVEKIT_API_SECRET"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.named.Among(func(key string) bool { return slices.Contains(tc.there, key) })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
			if (err != nil) != (tc.wrong != "") || err != nil && err.Error() != tc.wrong {
				t.Errorf("%s got %v, want %q", tc.reason, err, tc.wrong)
			}
		})
	}
}

// TestProjectOfKeys: other keys of a Secret are another project.
func TestProjectOfKeys(t *testing.T) {
	t.Parallel()
	keys := SecretKeys{APISecret: "s", URL: "u"}
	plain, named := SecretProject("voice", "livekit", SecretKeys{}), SecretProject("voice", "livekit", keys)
	if plain != "voice/livekit" || named != "voice/livekit (url=u,api-secret=s)" {
		t.Errorf("the projects are %q and %q", plain, named)
	}
	for project, want := range map[Project]SecretKeys{plain: {}, named: keys} {
		secret, ok := project.Secret()
		if !ok || secret != (types.NamespacedName{Namespace: "voice", Name: "livekit"}) || project.Keys() != want {
			t.Errorf("%s is in Secret %s under keys %q", project, secret, project.Keys())
		}
	}
	if _, ok := DefaultProject.Secret(); ok {
		t.Error("the default project has a Secret of some pod's")
	}
}
