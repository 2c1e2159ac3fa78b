// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	cfg := Config{Name: "a", Nodes: 2}
	tools := map[string]string{moduleEtcd: "/bin/etcd-1"}
	whole := state{Format: stateFormat, Config: cfg.withDefaults(), Ready: true, Tools: tools}
	healthy := []ComponentStatus{{Name: Etcd, Alive: true, Healthy: true}}
	cases := map[string]struct {
		reason   string
		change   func(*state)
		cfg      Config
		tools    map[string]string
		statuses []ComponentStatus
		want     string // part of the first fault, empty for none
	}{
		"Healthy":      {reason: "A healthy instance is kept.", cfg: cfg, tools: tools, statuses: healthy},
		"Defaults":     {reason: "Spelling a default out changes nothing.", cfg: Config{Name: "a", Nodes: 2, LiveKits: DefaultLiveKits, Progress: &bytes.Buffer{}}, tools: tools, statuses: healthy},
		"OtherConfig":  {reason: "Another config is another instance.", cfg: Config{Name: "a", Nodes: 3}, tools: tools, statuses: healthy, want: "another config"},
		"OtherWebhook": {reason: "So is another webhook.", cfg: Config{Name: "a", Nodes: 2, WebhookURLs: []string{"http://x"}}, tools: tools, statuses: healthy, want: "another config"},
		"OtherTools":   {reason: "Programs of another version are replaced.", cfg: cfg, tools: map[string]string{moduleEtcd: "/bin/etcd-2"}, statuses: healthy, want: "built otherwise"},
		"CutOff":       {reason: "An interrupted start may have left anything behind.", change: func(s *state) { s.Ready = false }, cfg: cfg, tools: tools, statuses: healthy, want: "cut off"},
		"OtherFormat":  {reason: "A state of another version is not understood.", change: func(s *state) { s.Format = 0 }, cfg: cfg, tools: tools, statuses: healthy, want: "another version"},
		"HalfDead": {
			reason: "One dead component makes the instance broken.", cfg: cfg, tools: tools,
			statuses: append([]ComponentStatus{{Name: Scheduler, Why: "its process 5 has ended"}}, healthy...),
			want:     "kube-scheduler: its process 5 has ended",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := whole
			if tc.change != nil {
				tc.change(&s)
			}
			faults := judge(s, tc.cfg, tc.tools, tc.statuses)
			switch {
			case tc.want == "" && len(faults) > 0:
				t.Errorf("%s got faults %q", tc.reason, faults)
			case tc.want != "" && (len(faults) == 0 || !strings.Contains(faults[0], tc.want)):
				t.Errorf("%s got faults %q, want %q", tc.reason, faults, tc.want)
			}
		})
	}
}
