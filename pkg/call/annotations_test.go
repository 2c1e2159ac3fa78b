// SPDX-License-Identifier: Apache-2.0

package call

import (
	"flag"
	"strings"
	"testing"

	"github.com/callguard/callguard/test/trial"
)

var update = flag.Bool("update", false, "write the table of docs/reference/annotations.md") //nolint:gochecknoglobals // a flag of the test

// TestReference compares the table in docs/reference/annotations.md with the one that programs use.
func TestReference(t *testing.T) {
	trial.Documented(t, "../../docs/reference/annotations.md", "annotations", Reference(), *update)
}

// TestMistakes: every annotation with a required form reports a value of another form, naming both.
func TestMistakes(t *testing.T) {
	checked := 0
	for _, a := range Annotations() {
		if a.wrong == nil {
			continue
		}
		checked++
		wrong := "-no such value-"
		if a.Key == AgentNameAnnotation {
			wrong = strings.Repeat(wrong, 9) // names are valid up to this length
		}
		said := Mistakes(map[string]string{a.Key: wrong})
		if len(said) != 1 || !strings.Contains(said[0].Error(), a.Key) || !strings.Contains(said[0].Error(), wrong) || !strings.Contains(said[0].Error(), "use ") {
			t.Errorf("%s is %q, and this is said of it: %v", a.Key, wrong, said)
		}
	}
	if said := Mistakes(map[string]string{OnDeadlineAnnotation: "Kill"}); checked == 0 || len(said) != 1 {
		t.Errorf("%d settings are checked; of a deadline that kills is said %v", checked, said)
	}
	if said := Mistakes(nil); said != nil {
		t.Errorf("of a pod that says nothing is said %v", said)
	}
}
