// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/callguard/callguard/test/fleet"
)

func TestBehind(t *testing.T) {
	history := []point{{0, 0}, {time.Second, 1}, {2 * time.Second, 4}, {3 * time.Second, 5}}
	cases := map[string]struct {
		reason string
		active int
		want   time.Duration
	}{
		"Now":     {"The callers count the same.", 5, 0},
		"Between": {"Calls went from 1 to 4 between two points, so there were 3 at some time.", 3, 2 * time.Second},
		"Before":  {"There was one call two seconds ago.", 1, 2 * time.Second},
		"Never":   {"There were never that many, however far one looks back.", 6, 3*time.Second + agreeWithin},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := behind(history, tc.active); got != tc.want {
				t.Errorf("%s behind(%d) = %s, want %s", tc.reason, tc.active, got, tc.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	at := func(seconds, calls int, active reading, replicas int32, pods int) snapshot {
		return snapshot{
			At: time.Duration(seconds) * time.Second, Calls: calls, Active: active,
			Scaling: autoscaler{Current: replicas, Desired: replicas}, Pods: make([]podRow, pods),
		}
	}
	num := func(n int64) reading { return reading{N: n} }
	good := []snapshot{at(0, 0, num(0), 1, 1), at(5, 12, num(7), 2, 2), at(10, 12, num(12), 3, 3), at(20, 0, num(0), 1, 1)}
	cases := map[string]struct {
		reason    string
		snapshots []snapshot
		report    fleet.Report
		want      string // in the error; none means no error
	}{
		"Good":       {reason: "Up to the number that the peak needs, and down.", snapshots: good},
		"TooSmall":   {reason: "Twelve calls ask for three replicas.", snapshots: append(good[:2:2], good[3]), want: "grew to 2 replicas, not to 3"},
		"NoWayBack":  {reason: "It must come back to one.", snapshots: good[:3], want: "did not come back to 1 replica"},
		"PodLeft":    {reason: "A pod still finishes its calls.", snapshots: append(good[:3:3], at(20, 0, num(0), 1, 2)), want: "did not come back"},
		"Dropped":    {reason: "No call may be lost.", snapshots: good, report: fleet.Report{Dropped: []fleet.Loss{{Room: "r"}}}, want: "1 calls were dropped"},
		"Unanswered": {reason: "Every call is answered.", snapshots: good, report: fleet.Report{Unanswered: 2}, want: "2 not answered"},
		"NotServed":  {reason: "A 503 scales nothing.", snapshots: append([]snapshot{at(0, 0, reading{Why: "503"}, 1, 1)}, good...), want: "did not always agree"},
		"FarBehind":  {reason: "Old numbers scale wrongly.", snapshots: append(good[:3:3], at(30, 12, num(7), 3, 3), good[3]), want: "did not always agree"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := &account{}
			for _, s := range tc.snapshots {
				a.add(s)
			}
			err := judge(a, tc.report)
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s judge() = %v, want %q\n%s", tc.reason, err, tc.want, summary(a, tc.report))
			}
		})
	}
}

func TestValidate(t *testing.T) {
	o := newOptions()
	if err := o.validate(); err != nil {
		t.Errorf("the defaults do not work: %v", err)
	}
	bad := &options{calls: 500}
	err := bad.validate()
	for _, want := range []string{"--calls is 500; use 1 to 50", "--ramp is 0s", "--hold is 0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("validate() = %v, want %q in it", err, want)
		}
	}
}
