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
	DrainingPods = "draining_pods" // pods that take no new calls
	WaitingCalls = "waiting_calls" // callers who asked for an agent and have none
	// UntilIdle is in how many seconds all present calls will have ended, estimated from
	// earlier calls: the median, or another quantile that its selector names.
	UntilIdle = "seconds_until_idle"
)

// tally sums up what is known of some pods.
type tally struct {
	known, unknown        int
	lost                  int // unknown pods of lost nodes
	calls, busy, draining int
	at                    time.Time // of the oldest reading
	stale                 error     // why one of their LiveKit projects cannot be believed
	example               *call.Pod // the unknown pod that comes first by name
	why                   call.Reading
}

// count adds a pod. An unknown pod of a lost node will stay unknown, so it does not matter
// for whether enough is known of the others.
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
		if t.example == nil || pod.Compare(t.example) < 0 {
			t.example, t.why = pod, r
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

// add adds the counts that decide whether enough is known.
func (t *tally) add(other tally) {
	t.known += other.known
	t.unknown += other.unknown
	t.lost += other.lost
	if t.stale == nil {
		t.stale = other.stale
	}
	if t.example == nil {
		t.example, t.why = other.example, other.why
	}
}

// tooLittleKnown returns a 503 with the reason when a metric about calls cannot be
// answered: a LiveKit project cannot be believed, or more than half of the pods are
// unknown. Pods of lost nodes do not count if at least one pod is known.
func (t *tally) tooLittleKnown(metric string) error {
	switch {
	case metric == DrainingPods:
		return nil
	case t.stale != nil:
		return unavailable("%s is not known: %v", metric, t.stale)
	case 2*t.unknown > t.known+t.unknown:
		return unavailable("%s is not known: %d of %d pods are unknown; pod %s: %s", metric, t.unknown, t.known+t.unknown, t.example.NamespacedName, t.why.Reason())
	case t.lost > 0 && t.known == 0:
		return unavailable("%s is not known: %d pods are unknown and their nodes are lost; pod %s: %s", metric, t.lost, t.example.NamespacedName, t.why.Reason())
	}
	return nil
}

// unavailable returns a 503 whose text may include text from outside.
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
