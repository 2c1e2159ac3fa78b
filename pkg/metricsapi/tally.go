// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/callguard/callguard/pkg/call"
)

// The metrics.
const (
	ActiveCalls  = "active_calls"  // calls held
	BusyPods     = "busy_pods"     // pods that hold a call, or may
	DrainingPods = "draining_pods" // pods that take no new call
	WaitingCalls = "waiting_calls" // callers whom no agent has answered, and who asked for one
	// UntilIdle is in how many seconds all calls held now are over, by how long calls lasted
	// before: the median, or another quantile that its selector names.
	UntilIdle = "seconds_until_idle"
)

// tally is what is known of some pods together.
type tally struct {
	known, unknown        int
	lost                  int // unknown, and gone with their nodes
	calls, busy, draining int
	at                    time.Time // of the oldest reading
	stale                 error     // why a LiveKit project of theirs cannot be believed
	example               string    // an unknown pod, and why it is
}

// count enters a pod. One that is lost with its node and unknown is unknown for good,
// and has nothing to do with whether enough is known of the others.
func (t *tally) count(pod *call.Pod, r call.Reading, lost bool) {
	if pod.State == call.Draining || pod.State == call.Released {
		t.draining++
	}
	calls, known := r.Calls()
	if !known {
		if lost {
			t.lost++
		} else {
			t.unknown++
		}
		t.busy++
		if t.example == "" {
			t.example = fmt.Sprintf("pod %s: %s", pod.NamespacedName, r.Reason())
		}
		return
	}
	t.known++
	t.calls += calls
	if calls > 0 {
		t.busy++
	}
	if r.At().Before(t.at) {
		t.at = r.At()
	}
}

// add joins what bears on whether enough is known.
func (t *tally) add(other tally) {
	t.known += other.known
	t.unknown += other.unknown
	t.lost += other.lost
	if t.stale == nil {
		t.stale = other.stale
	}
	if t.example == "" {
		t.example = other.example
	}
}

// tooLittleKnown returns a 503 with the reason when a metric about calls cannot
// be answered: a LiveKit project cannot be believed, or more than half of the
// pods are unknown, of which those that are lost with their nodes do not count
// beside one that is known.
func (t *tally) tooLittleKnown(metric string) error {
	switch {
	case metric == DrainingPods:
		return nil
	case t.stale != nil:
		return unavailable("%s is not known: %v", metric, t.stale)
	case 2*t.unknown > t.known+t.unknown:
		return unavailable("%s is not known: %d of %d pods are unknown; %s", metric, t.unknown, t.known+t.unknown, t.example)
	case t.lost > 0 && t.known == 0:
		return unavailable("%s is not known: %d pods are unknown and their nodes are lost; %s", metric, t.lost, t.example)
	}
	return nil
}

// unavailable is a 503 with a text that others may have had a hand in.
func unavailable(format string, args ...any) error {
	return apierrors.NewServiceUnavailable(call.Plain(fmt.Sprintf(format, args...), call.MaxText))
}

func (t *tally) value(metric string) int64 {
	switch metric {
	case BusyPods:
		return int64(t.busy)
	case DrainingPods:
		return int64(t.draining)
	default:
		return int64(t.calls)
	}
}
