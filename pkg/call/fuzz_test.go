// SPDX-License-Identifier: Apache-2.0

package call

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzAnnotations: whatever an annotation of a pod says, what is read of it is usable, and beside a mistake it ends no call.
func FuzzAnnotations(f *testing.F) {
	for _, value := range []string{"", "2h", "Release", "50%", "9000", "rooms,gate", "url=LK_URL,api-key=KEY", "true", "every", "-1", "1e3", "９", "9223372036854775807"} {
		f.Add(value, "Release", 3)
	}
	f.Fuzz(func(t *testing.T, value, other string, replicas int) {
		for _, a := range Annotations() {
			for _, err := range Mistakes(map[string]string{a.Key: value, OnDeadlineAnnotation: other}) {
				if !strings.Contains(err.Error(), "callguard.dev/") {
					t.Errorf("%s is %q: %v; want an error that names the annotation", a.Key, value, err)
				}
			}
		}
		if d, err := ParseDeadline(value, other); d.After < 0 || err != nil && d.Release || d.Release && other != "Release" {
			t.Errorf("ParseDeadline(%q, %q) = %+v, %v", value, other, d, err)
		}
		if limit, err := ParseLaunchLimit(value); limit < 0 || err != nil && limit != 0 {
			t.Errorf("ParseLaunchLimit(%q) = %s, %v", value, limit, err)
		}
		for _, parse := range []func(string) (int, error){ParseWorkerPort, ParseGatePort} {
			if port, err := parse(value); port < 1 || port > math.MaxUint16 {
				t.Errorf("port %q is %d, %v", value, port, err)
			}
		}
		if replicas >= 0 && replicas < math.MaxInt32 {
			if n, err := ParseMinAvailable(value, replicas); n < 0 || (err != nil || value == "") && n != replicas || strings.HasSuffix(value, "%") && n > replicas {
				t.Errorf("ParseMinAvailable(%q, %d) = %d, %v", value, replicas, n, err)
			}
		}
		ws, err := ParseWitnesses(value, other)
		if len(ws) == 0 || slices.ContainsFunc(ws, func(w Witness) bool { return !slices.Contains(Witnesses(), w) }) {
			t.Errorf("ParseWitnesses(%q, %q) = %v, %v: a pod that nobody counts", value, other, ws, err)
		}
		if d := DemandOf("voice", map[string]string{AgentNameAnnotation: value, SecretKeysAnnotation: other}); len(d.AgentName) > MaxAgentName {
			t.Errorf("%q is an agent's name of %d bytes", value, len(d.AgentName))
		}
		if keys, err := ParseSecretKeys(value); err == nil {
			if again, err := ParseSecretKeys(keys.String()); err != nil || again != keys {
				t.Errorf("ParseSecretKeys(%q) is %+v, and written and read again %+v, %v", value, keys, again, err)
			}
		}
	})
}

// FuzzMark: what is accepted as a mark is written and read again as the same.
func FuzzMark(f *testing.F) {
	for _, value := range []string{"drain 2026-01-02T15:04:05Z", "unlock 2026-01-02T15:04:05.9+01:00", "drain", "x 2026-01-02T15:04:05Z", "drain 0000-01-01T00:00:00+23:59"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		m, err := ParseMark(value)
		if err != nil {
			if m != (Mark{}) {
				t.Errorf("ParseMark(%q) = %+v, %v", value, m, err)
			}
			return
		}
		if year := m.At.UTC().Year(); year < 0 || year > 9999 {
			return // in UTC it is a year that RFC 3339 cannot write; drain-guard marks the present
		}
		again, err := ParseMark(m.String())
		if err != nil || again.Intent != m.Intent || !again.At.Equal(m.At.Truncate(time.Second)) {
			t.Errorf("ParseMark(%q) is %s, and that is %+v, %v", value, m, again, err)
		}
	})
}
