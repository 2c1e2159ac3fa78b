// SPDX-License-Identifier: Apache-2.0

package call

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseWitnesses(t *testing.T) {
	cases := map[string]struct {
		reason   string
		value    string
		gatePort string
		want     []Witness
		wantErr  string
	}{
		"Empty":      {reason: "No annotation means the default.", value: "", want: []Witness{Rooms, Worker}},
		"One":        {reason: "A team without a reachable worker names rooms alone.", value: "rooms", want: []Witness{Rooms}},
		"Spaces":     {reason: "People put spaces behind commas.", value: " worker , rooms", want: []Witness{Worker, Rooms}},
		"Duplicate":  {reason: "Named twice is asked once.", value: "rooms,rooms", want: []Witness{Rooms}},
		"Gate":       {reason: "A pod that gives a gate port has a gate.", gatePort: "8089", want: []Witness{Rooms, Gate}},
		"GateAlone":  {reason: "Where LiveKit's API is far the gate is enough, on its default port.", value: "gate", want: []Witness{Gate}},
		"GateUnused": {reason: "The named container counts, whatever else the pod has.", value: "worker", gatePort: "8089", want: []Witness{Worker}},
		"GateTypo": {reason: "The default of a pod with a gate has the gate.", value: "gat", gatePort: "1", want: []Witness{Rooms, Gate},
			wantErr: `annotation callguard.dev/witnesses is "gat": there is no witness "gat"; use "rooms,gate", or others of "rooms", "worker" and "gate"`},
		"Typo": {reason: "A typo falls back to the default and names what would work.", value: "room", want: []Witness{Rooms, Worker},
			wantErr: `annotation callguard.dev/witnesses is "room": there is no witness "room"; use "rooms,worker", or others of "rooms", "worker" and "gate"`},
		"TrailingComma": {reason: "An empty name is no witness.", value: "rooms,", want: []Witness{Rooms, Worker},
			wantErr: `annotation callguard.dev/witnesses is "rooms,": there is no witness ""; use "rooms,worker", or others of "rooms", "worker" and "gate"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ParseWitnesses(tc.value, tc.gatePort)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.wantErr, errText(err)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestParseWorkerPort(t *testing.T) {
	for value, want := range map[string]int{"": 8081, "9000": 9000, "0": 8081, "65536": 8081, "http": 8081} {
		got, err := ParseWorkerPort(value)
		if got != want {
			t.Errorf("ParseWorkerPort(%q) = %d, want %d", value, got, want)
		}
		if bad := value != "" && value != "9000"; bad != (err != nil) {
			t.Errorf("ParseWorkerPort(%q) error = %v", value, err)
		}
	}
}

func TestStateOf(t *testing.T) {
	aside := map[string]string{"pod-template-hash": "abc-aside"}
	draining := map[string]string{DrainingAnnotation: "drain 2026-01-01T00:00:00Z"}
	cases := map[string]struct {
		labels, annotations map[string]string
		want                State
	}{
		"Fresh":                  {labels: map[string]string{"pod-template-hash": "abc"}, want: Serving},
		"SetAside":               {labels: aside, want: Aside},
		"AsideAndDraining":       {labels: aside, annotations: draining, want: Draining},
		"DrainingInPlace":        {annotations: draining, want: Draining},
		"ReleasedByAnEmptyLabel": {labels: map[string]string{ReleasedLabel: ""}, annotations: draining, want: Released},
		"ReleasedWinsOverAll":    {labels: map[string]string{"pod-template-hash": "abc-aside", ReleasedLabel: "drain"}, annotations: draining, want: Released},
	}
	for name, tc := range cases {
		if got := StateOf(tc.labels, tc.annotations); got != tc.want {
			t.Errorf("%s: StateOf = %s, want %s", name, got, tc.want)
		}
	}
}

func TestZeroReadingIsUnknown(t *testing.T) {
	var r Reading
	if n, known := r.Calls(); known {
		t.Errorf("the zero Reading claims to know %d calls", n)
	}
	if r.Reason() == "" {
		t.Error("an unknown reading must say why")
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestOnlyAKnownReadingIsSealed(t *testing.T) {
	if !Known(0, time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)).WithSeal().Sealed() {
		t.Error("a gate that reports zero, and has the order, is sealed")
	}
	if Unknown("no route").WithSeal().Sealed() {
		t.Error("an unknown number cannot be final")
	}
}
