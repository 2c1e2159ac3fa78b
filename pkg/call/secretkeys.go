// SPDX-License-Identifier: Apache-2.0

package call

import (
	"fmt"
	"regexp"
	"strings"
)

// SecretKeys are the names of the keys, or files, that hold the URL, the API key and the
// API secret of a LiveKit project. If one is empty, callguard's own name for the key is
// used, or LiveKit's if that key does not exist.
type SecretKeys struct{ URL, APIKey, APISecret string }

// ExampleSecretKeys is a value of SecretKeysAnnotation.
const ExampleSecretKeys = "url=LIVEKIT_URL,api-key=LIVEKIT_API_KEY,api-secret=LIVEKIT_API_SECRET"

// secretKey matches what Kubernetes accepts as a key of a Secret, except names that lead out of a
// folder.
var secretKey = regexp.MustCompile(`^[-._a-zA-Z0-9]*[-_a-zA-Z0-9][-._a-zA-Z0-9]*$`)

// ParseSecretKeys reads the value of SecretKeysAnnotation; an empty one names no key. The
// error names what is wrong and a value that would work.
func ParseSecretKeys(value string) (SecretKeys, error) {
	var keys SecretKeys
	if strings.TrimSpace(value) == "" {
		return keys, nil
	}
	for part := range strings.SplitSeq(value, ",") {
		of, name, _ := strings.Cut(strings.TrimSpace(part), "=")
		field, known := map[string]*string{"url": &keys.URL, "api-key": &keys.APIKey, "api-secret": &keys.APISecret}[of]
		if !known || *field != "" || len(name) > 253 || !secretKey.MatchString(name) {
			return SecretKeys{}, fmt.Errorf("%q, in which %q cannot be read; use one such as %s, or some of these", value, part, ExampleSecretKeys)
		}
		*field = name
	}
	return keys, nil
}

// String returns the keys in the form that ParseSecretKeys reads, always in
// the same order.
func (k SecretKeys) String() string {
	var named []string
	for _, key := range []struct{ of, name string }{{"url", k.URL}, {"api-key", k.APIKey}, {"api-secret", k.APISecret}} {
		if key.name != "" {
			named = append(named, key.of+"="+key.name)
		}
	}
	return strings.Join(named, ",")
}

// Among returns which of the existing keys hold the three values, or an error that names
// the missing ones. If a key is named, only that one is accepted; otherwise callguard's
// own name takes precedence over LiveKit's.
func (k SecretKeys) Among(there func(key string) bool) (SecretKeys, error) {
	var missing []string
	find := func(named string, known ...string) string {
		if named != "" {
			known = []string{named}
		}
		for _, key := range known {
			if there(key) {
				return key
			}
		}
		missing = append(missing, strings.Join(known, " or "))
		return ""
	}
	found := SecretKeys{
		URL:       find(k.URL, "url", "LIVEKIT_URL"),
		APIKey:    find(k.APIKey, "api-key", "LIVEKIT_API_KEY"),
		APISecret: find(k.APISecret, "api-secret", "LIVEKIT_API_SECRET"),
	}
	if len(missing) > 0 {
		return found, fmt.Errorf("there is no key %s", strings.Join(missing, ", and no key "))
	}
	return found, nil
}
