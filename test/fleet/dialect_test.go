// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWorkerAnswer(t *testing.T) {
	tests := map[string]struct {
		reason  string
		dialect Dialect
		info    workerInfo
		want    string
	}{
		"PythonIdle": {
			reason:  "Python leaves out every field at zero, active_jobs among them.",
			dialect: Python,
			want:    "{\n  \"worker_type\": \"JT_ROOM\",\n  \"sdk_version\": \"1.7.0\",\n  \"protocol_version\": 1\n}",
		},
		"PythonBusy": {
			reason:  "Python writes counts as floats, whole ones too.",
			dialect: Python,
			info:    workerInfo{AgentName: "desk", ActiveJobs: 2, Load: 0.2},
			want: "{\n  \"worker_type\": \"JT_ROOM\",\n  \"agent_name\": \"desk\",\n  \"active_jobs\": 2.0,\n" +
				"  \"sdk_version\": \"1.7.0\",\n  \"worker_load\": 0.2,\n  \"protocol_version\": 1\n}",
		},
		"NodeIdle": {
			reason:  "Node writes every field, a zero as 0, and no load.",
			dialect: Node,
			want: `{"agent_name":"","agent_name_is_env":false,"deployment":"","worker_type":"JT_ROOM","active_jobs":0,` +
				`"sdk_version":"1.7.0","project_type":"nodejs","protocol_version":1}`,
		},
		"NodeBusy": {
			reason:  "Node writes counts as integers.",
			dialect: Node,
			info:    workerInfo{AgentName: "desk", ActiveJobs: 2, Load: 0.2},
			want: `{"agent_name":"desk","agent_name_is_env":false,"deployment":"","worker_type":"JT_ROOM","active_jobs":2,` +
				`"sdk_version":"1.7.0","project_type":"nodejs","protocol_version":1}`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, string(tc.dialect.encode(tc.info))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestParseDialect(t *testing.T) {
	for value, want := range map[string]Dialect{"": Python, "python": Python, "node": Node} {
		if got, err := parseDialect(value); err != nil || got != want {
			t.Errorf("parseDialect(%q) = %q, %v; want %q", value, got, err, want)
		}
	}
	if _, err := parseDialect("ruby"); err == nil {
		t.Error("parseDialect(\"ruby\") gives no error")
	}
}
