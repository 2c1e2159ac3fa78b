// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

const (
	// large is from how many pods on a workload counts as large, so that a look waits for informers before it lists them.
	large = 100
	// asNew is how old what informers have of pods may be. It is longer than the time between two looks at one of many large
	// workloads on a busy API server, and not much longer than a list of thousands of pods takes there.
	asNew = 10 * time.Second
	// ownersNew is how long a workload's owners, once read, are taken from the informers: only people and autoscalers change them,
	// and no call depends on them. It bounds what an informer that has lost its watch does not see.
	ownersNew = time.Minute
	// awaited is how often informers are asked whether they have the guard's last step by now, and awaitEvery how long it waits
	// in between: a list of thousands of pods costs the API server more than half a second.
	awaited, awaitEvery = 10, 50 * time.Millisecond
)

// current says what of a workload need not be read, because informers have it as it was a moment ago.
type current struct {
	// owners are its owners if they were read then; nil if not.
	owners *ownersRead
	pods   bool
}

// ownersRead is when the owners of a workload were read, and what its own owner selects. That never changes, and informers do not
// keep it.
type ownersRead struct {
	at       time.Time
	selector string
}

// asOfNow returns a workload as informers know it, and what of that is as good as read anew. Informers get a moment to catch up
// with a large one.
func (g *Guard) asOfNow(ctx context.Context, key Key, was *snapshot) (*snapshot, current, error) {
	is := current{owners: g.writes.lastRead(key, g.now())}
	for tried := 0; ; tried++ {
		is.pods = g.writes.in(was.pods, key, g.now())
		if is.pods || len(was.pods) < g.large || !g.writes.has(key, g.now()) || tried == g.awaited {
			return was, is, nil
		}
		select {
		case <-ctx.Done():
			return nil, is, ctx.Err()
		case <-time.After(awaitEvery):
		}
		var err error
		if was, err = g.cluster.cached(key); err != nil {
			return nil, is, err
		}
	}
}

// written is the last step that a guard took with a pod of a workload.
type written struct {
	pod     types.UID
	version string    // the pod's, since
	began   time.Time // when the request was made
}

// writes has the last step with each workload. An informer that has seen that step has seen everything before it, because it
// sees changes of pods in their order.
type writes struct {
	mu   sync.Mutex
	last map[Key]written
	// read is when the owners of each workload were read last.
	read map[Key]ownersRead
}

func newWrites() *writes { return &writes{last: map[Key]written{}, read: map[Key]ownersRead{}} }

// enter records a step that began at the given time, and the pod as it is after it. Of several steps at the same time the
// latest counts.
func (w *writes) enter(key Key, pod *corev1.Pod, began time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.last, func(_ Key, last written) bool { return began.Sub(last.began) > asNew })
	if last, is := w.last[key]; is && !isSince(pod.ResourceVersion, last.version) {
		return
	}
	w.last[key] = written{pod: pod.UID, version: pod.ResourceVersion, began: began}
}

// reads records that the owners of a workload were read.
func (w *writes) reads(key Key, r ownersRead) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.read, func(_ Key, last ownersRead) bool { return r.at.Sub(last.at) > ownersNew })
	w.read[key] = r
}

// lastRead returns when the owners of a workload were read, if that was a moment ago.
func (w *writes) lastRead(key Key, now time.Time) *ownersRead {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, is := w.read[key]; is && now.Sub(r.at) <= ownersNew {
		return &r
	}
	return nil
}

// has reports whether a step with a workload was taken a moment ago.
func (w *writes) has(key Key, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, is := w.last[key]
	return is && now.Sub(last.began) <= asNew
}

// in reports whether pods, as an informer has them, are as they were a moment ago, with all that this guard has written.
func (w *writes) in(list []*corev1.Pod, key Key, now time.Time) bool {
	w.mu.Lock()
	last, is := w.last[key]
	w.mu.Unlock()
	if !is || now.Sub(last.began) > asNew {
		return false
	}
	for _, pod := range list {
		if pod.UID == last.pod {
			return isSince(pod.ResourceVersion, last.version)
		}
	}
	return false
}

// isSince reports whether a version is the same as another, or later; false if they cannot be compared.
func isSince(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err == nil && order >= 0
}
