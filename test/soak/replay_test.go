// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestReplayOfADrop keeps what led to a dropped call in a file that can be played.
func TestReplayOfADrop(t *testing.T) {
	t.Parallel()
	s := draw(t, 4, time.Hour)
	dropped := Offset(40 * time.Minute)
	path := filepath.Join(t.TempDir(), "replay.json")
	if err := s.Replay(dropped).Write(path); err != nil {
		t.Fatal(err)
	}
	read, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.Replay(dropped), read); diff != "" {
		t.Errorf("the file says something else:\n%s", diff)
	}
	if read.From != Offset(30*time.Minute) || read.Duration != Offset(10*time.Minute+30*time.Second) {
		t.Errorf("the replay of a drop at 40m begins at %s and takes %s; want 30m and 10m30s", read.From, read.Duration)
	}
	if len(read.Disruptions) < 50 || len(read.Faults) < 25 {
		t.Errorf("the replay has %d disruptions and %d faults; want those of ten minutes", len(read.Disruptions), len(read.Faults))
	}
	if early := s.Replay(Offset(time.Minute)); early.From != 0 || early.Duration != Offset(90*time.Second) {
		t.Errorf("the replay of a drop at 1m begins at %s and takes %s; want the start and 1m30s", early.From, early.Duration)
	}
}

// TestEveryScheduleIsValid draws schedules, all of which a run takes, as it takes their replays.
func TestEveryScheduleIsValid(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		s := draw(t, seed, 5*time.Minute)
		if err := s.Validate(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err := s.Replay(Offset(3 * time.Minute)).Validate(); err != nil {
			t.Errorf("replay of seed %d: %v", seed, err)
		}
	}
}

func TestWrongFiles(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason, text, says string
	}{
		"NoSchedule":  {reason: "Any file may be named.", text: `[]`, says: "is no schedule"},
		"NoTime":      {reason: "A typing error in a time.", text: `{"duration": "10"}`, says: `"10" is no length of time; use one such as 1m30s`},
		"Empty":       {reason: "A schedule has a length.", text: `{}`, says: "duration is 0s; use up to 24h0m0s, such as 10m"},
		"NoWorkload":  {reason: "A typing error in a workload.", text: `{"duration": "1m", "calls": [{"at": "1s", "length": "2s", "workload": "pyton"}]}`, says: `call 0 is to workload "pyton"; use one of ["python"`},
		"TooLong":     {reason: "A run ends with its last call.", text: `{"duration": "1m", "calls": [{"at": "1s", "length": "60s", "workload": "node"}]}`, says: `call 0 is from 1s for 1m0s; it must be within the duration of 1m0s`},
		"NoKind":      {reason: "A disruption is no fault.", text: `{"duration": "1m", "faults": [{"at": "1s", "kind": "drain"}]}`, says: `fault 0: kind is "drain"; use one of`},
		"NoGate":      {reason: "Only gated agents have one.", text: `{"duration": "1m", "faults": [{"at": "1s", "kind": "gate killed", "workload": "node"}]}`, says: `workload "node" has no gate; use one of ["python-gated" "node-gated"]`},
		"NoStage":     {reason: "A stage has at least the usual nodes.", text: `{"duration": "1m", "nodes": 3}`, says: `there are 3 nodes; use 10 to 100`},
		"OfItsHPA":    {reason: "People do not scale what an HPA scales.", text: `{"duration": "1m", "disruptions": [{"at": "1s", "kind": "scale-up", "workload": "node", "replicas": 4}]}`, says: `workload "node" is scaled by its HPA; use one of ["python"`},
		"NoSuchNode":  {reason: "The stage has ten nodes.", text: `{"duration": "1m", "disruptions": [{"at": "1s", "kind": "drain", "node": 10, "count": 1}]}`, says: `disruption 0: node is 10; use 0 to 9`},
		"NoLink":      {reason: "Connections are between two.", text: `{"duration": "1m", "faults": [{"at": "1s", "kind": "connections cut"}]}`, says: `the link of a "connections cut" is ""; use one of ["drain-guard and LiveKit"`},
		"LinkOfNone":  {reason: "A gate is killed on its node.", text: `{"duration": "1m", "faults": [{"at": "1s", "kind": "gate killed", "workload": "node-gated", "link": "drain-guard and gates"}]}`, says: `the link of a "gate killed" is "drain-guard and gates"; use one of`},
		"AboutNobody": {reason: "A rollout is one of a workload.", text: `{"duration": "1m", "disruptions": [{"at": "1s", "kind": "rollout"}]}`, says: `the workload of a "rollout" is ""; use one of`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "schedule.json")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Read(path)
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: the error is %v; want %q and the file", tc.reason, err, tc.says)
			}
		})
	}
}
