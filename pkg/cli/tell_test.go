// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/callguard/callguard/test/trial"
)

// eventsOf reads the output of drain -o json: an object on each line, and nothing else.
func eventsOf(t *testing.T, text string) []Event {
	t.Helper()
	var list []Event
	for line := range strings.Lines(text) {
		var e Event
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%q is no event: %v", line, err)
		}
		list = append(list, e)
	}
	return list
}

func find(list []Event, of happening) *Event {
	if i := slices.IndexFunc(list, func(e Event) bool { return e.Event == of }); i >= 0 {
		return &list[i]
	}
	return &Event{}
}

// TestDrainEvents: a program that reads a drain's events gets what people see.
func TestDrainEvents(t *testing.T) {
	s := newDrainStage(t)
	s.ends = map[string]int64{"0.5": 600, "0.9": 2400}
	out := &trial.Log{}
	(&evictions{answer: func(pod string, n int) error {
		if pod == "b" && n == 1 {
			return apierrors.NewServiceUnavailable("etcd has no leader")
		}
		if pod == "b" && (!strings.Contains(out.String(), `"event":"left"`) || !strings.Contains(out.String(), `"event":"estimate"`)) {
			return tooMany()
		}
		return nil
	}}).on(s)
	common, _, errOut := newCommon()
	common.Out = out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := drainOptions{common: common, pace: pace, endsPace: pace, output: outputJSON}
	if err := o.run(ctx, s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	list := eventsOf(t, out.String())
	if list[0].Event != begins || list[0].Left.Of != 2 || list[0].Left.Calls != nil || list[1].Event != cordons || list[len(list)-1].Event != drained {
		t.Errorf("it begins or ends otherwise:\n%s", out)
	}
	if e := find(list, remains); e.Left == nil || e.Left.Of != 2 || e.Left.Calls == nil || *e.Left.Calls != 1 {
		t.Errorf("of what is left it says %+v", e)
	}
	if e := find(list, foretold); e.CallsOver == nil || *e.CallsOver.MedianSeconds != 600 {
		t.Errorf("it foretells %+v", e)
	}
	held := slices.IndexFunc(list, func(e Event) bool {
		return e.Event == stands && e.Pod.Name == "b" && e.Pod.Calls != nil && *e.Pod.Calls == 1
	})
	if held < 0 || list[held].Pod.Rule != "calls" || list[held].Pod.WaitsFor == "" || list[held].Node != "node-1" {
		t.Errorf("of the pod that is held it says:\n%s", out)
	}
	if e := find(list, waits); e.Pod == nil || e.Pod.Name != "b" || !strings.Contains(e.Text, "etcd has no leader") {
		t.Errorf("of the eviction that is tried again it says %+v", e)
	}
	if e := find(list, leaves); e.Pod == nil || e.Text == "" || e.Time.IsZero() {
		t.Errorf("of a pod that has gone it says %+v", e)
	}
	if errOut.Len() > 0 {
		t.Errorf("on stderr it says %s", errOut)
	}
}

// TestEventsOfTheEnd: an interrupted drain says how to continue, a refused one why, and
// one that does not wait what is left.
func TestEventsOfTheEnd(t *testing.T) {
	s := newDrainStage(t)
	(&evictions{answer: func(string, int) error { return tooMany() }}).on(s)
	common, out, _ := newCommon()
	o := drainOptions{common: common, pace: pace, output: outputJSON, timeout: time.Second, ignoreDaemonSets: true}
	if err := o.run(t.Context(), s.cluster, "node-1"); !errors.Is(err, errWaiting) {
		t.Fatalf("it ends with %v", err)
	}
	list := eventsOf(t, out.String())
	if e := list[len(list)-1]; e.Event != stopped || e.Resume != "kubectl calls drain node-1" || e.Left == nil || e.Left.Pods != 2 || e.Left.Calls == nil || *e.Left.Calls != 1 {
		t.Errorf("at last it says %+v", e)
	}
	out.Reset()
	o.timeout, o.detach = 0, true
	if err := o.run(t.Context(), s.cluster, "node-1"); err != nil {
		t.Fatal(err)
	}
	if e := find(eventsOf(t, out.String()), asked); e.Resume == "" || e.Left == nil || e.Left.Pods != 2 || e.Left.UnknownPods != 2 {
		t.Errorf("without waiting it says %+v", e)
	}
	out.Reset()
	if err := o.run(t.Context(), s.cluster, "node-9"); err == nil {
		t.Error("it drains a node that does not exist")
	}
	if list := eventsOf(t, out.String()); len(list) != 1 || list[0].Event != failed || !strings.Contains(list[0].Text, "node-9") {
		t.Errorf("of a node that is not there it says %+v", list)
	}
}

// TestEventsAreDocumented: docs/operate.md has each event and each field.
func TestEventsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operate.md")
	trial.Must(t, err)
	_, section, found := strings.Cut(string(text), "\n### Events of a drain\n")
	if !found {
		t.Fatal("docs/operate.md has no section \"Events of a drain\"")
	}
	section, _, _ = strings.Cut(section, "\n### ")
	for _, event := range []happening{begins, cordons, stands, remains, foretold, waits, resumes, refused, leaves, drained, evicted, asked, stopped, failed} {
		if !strings.Contains(section, "| `"+string(event)+"` |") {
			t.Errorf("it has no row for event %q", event)
		}
	}
	for _, of := range []any{Event{}, Left{}, PodStands{}, Ends{}} {
		for field := range reflect.TypeOf(of).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !strings.Contains(section, "`"+name+"`") {
				t.Errorf("it does not have field %q of %T", name, of)
			}
		}
	}
}
