// SPDX-License-Identifier: Apache-2.0

package manifests

import "testing"

// TestVersionOfTheDoors: the policies in a program carry its own version, which a release sets.
func TestVersionOfTheDoors(t *testing.T) {
	defer func(was string) { version = was }(version)
	for _, version = range []string{development, "1.2.3"} {
		doors, err := Parse(DefaultValues())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range doors.Policies {
			if got := p.Labels["app.kubernetes.io/version"]; got != version {
				t.Errorf("policy %s is of version %q; want %q", p.Name, got, version)
			}
		}
	}
}
