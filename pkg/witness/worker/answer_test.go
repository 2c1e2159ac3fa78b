// SPDX-License-Identifier: Apache-2.0

package worker

import "testing"

func TestParse(t *testing.T) {
	cases := map[string]struct {
		reason string
		body   string
		want   int
		known  bool
	}{
		"PythonIdle":    {"Python leaves zero out.", `{"worker_type":"JT_ROOM","sdk_version":"1.7.0"}`, 0, true},
		"PythonBusy":    {"Python writes floats.", `{"active_jobs":2.0,"sdk_version":"1.7.0","worker_load":0.4}`, 2, true},
		"NodeIdle":      {"Node always writes integers.", `{"active_jobs":0,"sdk_version":"1.9.0","project_type":"nodejs"}`, 0, true},
		"NodeBusy":      {"Node always writes integers.", `{"active_jobs":7,"sdk_version":"1.9.0"}`, 7, true},
		"OldPython":     {"Before 1.5.17 Python wrote plain integers.", `{"active_jobs":1,"sdk_version":"1.2.0","project_type":"python"}`, 1, true},
		"SomeoneElse":   {"Another server on the port is not idle.", `{"status":"ok"}`, 0, false},
		"EmptyObject":   {"Nothing said is not zero.", `{}`, 0, false},
		"Empty":         {"Nothing said is not zero.", ``, 0, false},
		"HTML":          {"A proxy's page is not zero.", `<html></html>`, 0, false},
		"Null":          {"A null answer is not an agent's.", `null`, 0, false},
		"Negative":      {"Fewer than none is a mistake.", `{"active_jobs":-1,"sdk_version":"1"}`, 0, false},
		"Fraction":      {"Half a job is a mistake.", `{"active_jobs":0.5,"sdk_version":"1"}`, 0, false},
		"TooMany":       {"More than any worker runs is a mistake.", `{"active_jobs":1e300,"sdk_version":"1"}`, 0, false},
		"JobsAsString":  {"A number in quotes is not one.", `{"active_jobs":"3","sdk_version":"1"}`, 0, false},
		"JobsNull":      {"Null is how some encoders leave a field out.", `{"active_jobs":null,"sdk_version":"1"}`, 0, true},
		"VersionNumber": {"sdk_version is a string.", `{"sdk_version":1}`, 0, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parse([]byte(tc.body))
			if known := err == nil; known != tc.known || got != tc.want {
				t.Errorf("%s parse(%s) = %d, %v; want %d, known %t", tc.reason, tc.body, got, err, tc.want, tc.known)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"active_jobs":2.0,"sdk_version":"1.7.0"}`, `{}`, `[]`, `{"active_jobs":1e999}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if jobs, err := parse(body); jobs < 0 || jobs > maxJobs || (err != nil && jobs != 0) {
			t.Errorf("parse(%q) = %d, %v", body, jobs, err)
		}
	})
}
