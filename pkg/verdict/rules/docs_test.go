// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"math/rand"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/callguard/callguard/pkg/verdict"
)

// TestHoldsAreDocumented: docs/holds.md has a row for each rule, and for each sentence
// that a held pod may get, with its limit. No row is superfluous.
func TestHoldsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/holds.md")
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		says *regexp.Regexp
		used bool
	}
	rows, sentences := map[string][]*row{}, 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(cells[0], " `") {
			continue
		}
		rule := strings.Trim(cells[0], " `")
		rows[rule] = append(rows[rule], &row{})
		if len(cells) != 5 {
			continue
		}
		for _, cell := range cells {
			if strings.TrimSpace(cell) == "" {
				t.Errorf("a row of rule %s says nothing in one of its cells: %s", rule, line)
			}
		}
		sentences++
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.Trim(cells[1], " `")), "…", "(.|\n)+")
		rows[rule][len(rows[rule])-1].says = regexp.MustCompile("^" + pattern + "$")
	}
	for _, rule := range All() {
		if len(rows[rule.Name()]) == 0 {
			t.Errorf("docs/holds.md has no row of rule %s", rule.Name())
		}
	}
	random := rand.New(rand.NewSource(20260101))
	for range 20_000 {
		v := All().Judge(situation(random))
		if v.Outcome != verdict.Hold {
			continue
		}
		found := false
		for _, r := range rows[v.Rule] {
			if r.says != nil && r.says.MatchString(v.Why) {
				r.used, found = true, true
			}
		}
		if !found {
			t.Fatalf("docs/holds.md has no row of rule %s that says %q", v.Rule, v.Why)
		}
	}
	for rule, list := range rows {
		for _, r := range list {
			if r.says != nil && !r.used && rule != "doors" && rule != "write" {
				t.Errorf("docs/holds.md has a row of rule %s that no pod ever gets: %s", rule, r.says)
			}
		}
	}
	if sentences == 0 {
		t.Error("docs/holds.md has no table of holds")
	}
}
