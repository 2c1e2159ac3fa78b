// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/callguard/callguard/test/trial"
)

// TestEndsOfSeveralNodes: with two nodes, each is read with a higher probability, so that
// both together have the one wanted.
func TestEndsOfSeveralNodes(t *testing.T) {
	s := newStage(t)
	s.ends = map[string]int64{"0.7071": 900, "0.9487": 3000, "0.5": 1, "0.9": 2}
	is := s.cluster.ends(t.Context(), []string{"node-1", "node-2"})
	if is.MedianSeconds == nil || *is.MedianSeconds != 900 || *is.P90Seconds != 3000 {
		t.Errorf("it foretells %+v", is)
	}
}

// TestEndsUnknown: if the time is unknown, the reason is shown instead.
func TestEndsUnknown(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		metrics error
		says    string
	}{
		"TooFew": {reason: "The adapter says what is missing.", says: "is not known: nobody has seen enough calls end"},
		"Older":  {reason: "An older adapter has no such metric.", metrics: apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, "x"), says: "metrics-adapter may be older than this plugin"},
		"Silent": {reason: "Without the API nothing is known.", metrics: apierrors.NewServiceUnavailable("no endpoints"), says: "the metrics API does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.metrics = tc.metrics
			if is := s.cluster.ends(t.Context(), []string{"node-1"}); is.MedianSeconds != nil || !strings.Contains(is.sentence(noon()), tc.says) {
				t.Errorf("%s It says %q", tc.reason, is.sentence(noon()))
			}
		})
	}
}

// TestDrainForetells: the estimate of the calls' end is printed once, as long as it stays
// valid.
func TestDrainForetells(t *testing.T) {
	s := newDrainStage(t)
	s.ends = map[string]int64{"0.5": 600, "0.9": 2400}
	out := &trial.Log{}
	said := "The calls held now are over by " + clock(noon().Add(10*time.Minute)) + " (in 10m) in half of such cases, by " + clock(noon().Add(40*time.Minute)) + " (in 40m) in nine of ten"
	e := &evictions{answer: func(pod string, n int) error {
		if pod == "b" && (n < 10 || !strings.Contains(out.String(), said)) {
			return tooMany()
		}
		return nil
	}}
	e.on(s)
	common, _, _ := newCommon()
	common.Out = out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o := drainOptions{common: common, pace: pace, endsPace: pace}
	if err := o.run(ctx, s.cluster, "node-1"); err != nil {
		t.Fatalf("%v; it says:\n%s", err, out)
	}
	if n := strings.Count(out.String(), said); n != 1 {
		t.Errorf("it says %d times, want once: %q\n%s", n, said, out)
	}
}
