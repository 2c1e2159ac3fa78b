// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// loads are the loads that the gates of pods told of last.
type loads struct {
	stale time.Duration

	mu sync.Mutex
	of map[types.UID]load
}

type load struct {
	at   time.Time
	load float64
}

// heard keeps the load of an answer. Gates of earlier versions tell of none.
func (l *loads) heard(pod *call.Pod, a Answer, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.Load == nil || !(*a.Load >= 0 && *a.Load <= 1) {
		delete(l.of, pod.UID)
		return
	}
	l.of[pod.UID] = load{at, *a.Load}
}

func (l *loads) gone(pod types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, pod)
}

// Load returns the load that a pod's worker reports to LiveKit, from 0 to 1, as far as its
// gate has told lately.
func (r *Reader) Load(pod *call.Pod, now time.Time) (is float64, known bool) {
	if r.loads == nil {
		return 0, false
	}
	r.loads.mu.Lock()
	defer r.loads.mu.Unlock()
	told, known := r.loads.of[pod.UID]
	return told.load, known && now.Sub(told.at) <= r.loads.stale
}
