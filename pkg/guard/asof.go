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
	// large is from how many pods on a workload counts as large, so that a look uses what informers have, if that
	// is recent enough, instead of a live read.
	large = 100
	// asNew is how old that may be. It is longer than the time between two looks at one of many large workloads on a busy API
	// server, and not much longer than a list of thousands of pods takes there.
	asNew = 10 * time.Second
	// awaited is how often informers are asked whether they have the guard's last step by now, and awaitEvery how long it waits
	// in between: a list of thousands of pods costs the API server more than half a second.
	awaited, awaitEvery = 10, 50 * time.Millisecond
)

// asOfNow returns a workload as informers know it, and whether that is as good as read anew. A large one they have a moment for.
func (g *Guard) asOfNow(ctx context.Context, key Key, was *snapshot) (*snapshot, bool, error) {
	for tried := 0; ; tried++ {
		if len(was.pods) < g.large || !g.writes.has(key, g.now()) {
			return was, false, nil
		}
		if g.writes.in(was.pods, key, g.now()) {
			return was, true, nil
		}
		if tried == g.awaited {
			return was, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(awaitEvery):
		}
		var err error
		if was, err = g.cluster.cached(key); err != nil {
			return nil, false, err
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
}

func newWrites() *writes { return &writes{last: map[Key]written{}} }

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
