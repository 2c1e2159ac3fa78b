// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"testing"
	"time"
)

func TestWanted(t *testing.T) {
	steps := []Step{{Calls: 10, Over: 10 * time.Second}, {Calls: 10, Over: 5 * time.Second}, {Calls: 0, Over: 10 * time.Second}}
	tests := map[string]struct {
		after time.Duration
		want  int
		over  bool
	}{
		"Start":    {0, 0, false},
		"Ramp":     {5 * time.Second, 5, false},
		"Hold":     {12 * time.Second, 10, false},
		"RampDown": {20 * time.Second, 5, false},
		"End":      {25 * time.Second, 0, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, over := wanted(steps, tc.after); got != tc.want || over != tc.over {
				t.Errorf("wanted after %s = %d, %v; want %d, %v", tc.after, got, over, tc.want, tc.over)
			}
		})
	}
}

func TestPlanValidate(t *testing.T) {
	tests := map[string]struct {
		plan Plan
		ok   bool
	}{
		"Steps":          {Plan{Steps: []Step{{Calls: 1}}}, true},
		"Rate":           {Plan{Rate: 1, For: time.Second, Length: time.Second}, true},
		"Nothing":        {Plan{}, false},
		"Both":           {Plan{Steps: []Step{{Calls: 1}}, Rate: 1, For: time.Second, Length: time.Second}, false},
		"EndlessCalls":   {Plan{Rate: 1, For: time.Second}, false},
		"NegativeNumber": {Plan{Steps: []Step{{Calls: -1}}}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tc.plan.validate(); (err == nil) != tc.ok {
				t.Errorf("validate = %v; want ok %v", err, tc.ok)
			}
		})
	}
}
