// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// says is a rule that always gives the same verdict.
type says struct {
	name    string
	verdict Verdict
}

func (s says) Name() string        { return s.name }
func (s says) Judge(Facts) Verdict { return s.verdict }
func (s says) Advice() Advice      { return Advice{} }

func TestJudge(t *testing.T) {
	cases := map[string]struct {
		reason string
		rules  Rules
		want   Verdict
	}{
		"NoRules": {
			reason: "Without a rule that lets it go, a pod stays.",
			want:   Verdict{Outcome: Hold, Rule: "default", Why: "no rule releases the pod"},
		},
		"AllAbstain": {
			reason: "Rules without an opinion are as good as none.",
			rules:  Rules{says{name: "one"}, says{name: "two"}},
			want:   Verdict{Outcome: Hold, Rule: "default", Why: "no rule releases the pod"},
		},
		"FirstOpinionWins": {
			reason: "The order of the rules decides between them.",
			rules: Rules{
				says{name: "one"},
				says{name: "two", verdict: Verdict{Outcome: Hold, Why: "it rains"}},
				says{name: "three", verdict: Verdict{Outcome: Release, Why: "the sun shines"}},
			},
			want: Verdict{Outcome: Hold, Rule: "two", Why: "it rains"},
		},
		"RuleIsNamed": {
			reason: "A rule cannot speak in another's name.",
			rules:  Rules{says{name: "one", verdict: Verdict{Outcome: Drain, Rule: "other", Why: "so"}}},
			want:   Verdict{Outcome: Drain, Rule: "one", Why: "so"},
		},
		"ForceIsKept": {
			reason: "A forced release must be reported as one.",
			rules:  Rules{says{name: "one", verdict: Verdict{Outcome: Release, Why: "so", Forced: true}}},
			want:   Verdict{Outcome: Release, Rule: "one", Why: "so", Forced: true},
		},
		"WordsAreNoOpinion": {
			reason: "Only an outcome is an opinion.",
			rules:  Rules{says{name: "one", verdict: Verdict{Why: "perhaps"}}, says{name: "two", verdict: Verdict{Outcome: Serve}}},
			want:   Verdict{Outcome: Serve, Rule: "two"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.rules.Judge(Facts{})); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
