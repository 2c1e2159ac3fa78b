// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
)

// watch sees every pod of a story, and fails on what must never happen: a pod that goes a
// step back, one that is released during a call, one that is deleted without being
// released.
type watch struct {
	lister corelisters.PodNamespaceLister

	mu       sync.Mutex
	open     bool // the policies may be disabled: the story tests that
	faults   []string
	maxPods  int
	minAble  int
	most     string // the pods at that time
	fewest   string
	released map[types.UID]bool
	moments  map[moment]time.Time
	seen     func(*corev1.Pod)
}

// moment is when a pod was first seen in a state, or gone.
type moment struct {
	pod   string
	state call.State
}

// gone is the state of a pod that does not exist any more.
const gone call.State = "gone"

func newWatch(t *testing.T, ns string, guarded bool) *watch {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(stage.Client, 0, informers.WithNamespace(ns))
	informer := factory.Core().V1().Pods()
	w := &watch{lister: informer.Lister().Pods(ns), open: !guarded, released: map[types.UID]bool{}, moments: map[moment]time.Time{}}
	_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.observe(nil, o.(*corev1.Pod)) },
		UpdateFunc: func(was, is any) { w.observe(was.(*corev1.Pod), is.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if pod, ok := o.(*corev1.Pod); ok {
				w.observe(pod, nil)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	factory.Start(ctx.Done())
	stop := func() { cancel(); factory.Shutdown() }
	t.Cleanup(func() { // before the namespace is cleared
		stop()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, fault := range w.faults {
			t.Error(fault)
		}
	})
	if !cache.WaitForCacheSync(t.Context().Done(), informer.Informer().HasSynced) {
		t.Fatal("the story's pods cannot be watched")
	}
	return w
}

// observe checks a change of a pod. A deleted pod is nil.
func (w *watch) observe(was, is *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.countLocked()
	if is != nil {
		w.noteLocked(is.Name, stateOf(is))
	} else {
		w.noteLocked(was.Name, gone)
	}
	if w.seen != nil && is != nil {
		w.seen(is)
	}
	if w.open {
		return
	}
	fault := func(pod *corev1.Pod, format string, args ...any) {
		w.faults = append(w.faults, "pod "+pod.Name+" "+fmt.Sprintf(format, args...))
	}
	switch {
	case is == nil:
		if was.DeletionTimestamp == nil && runs(was) && stateOf(was) != call.Released {
			fault(was, "vanished unreleased")
		}
		return
	case was == nil:
		was = is
	}
	if order := call.States(); slices.Index(order, stateOf(is)) < slices.Index(order, stateOf(was)) {
		fault(is, "went from %s back to %s", stateOf(was), stateOf(is))
	}
	if is.DeletionTimestamp != nil && was.DeletionTimestamp == nil && runs(was) && stateOf(is) != call.Released {
		fault(is, "was deleted while it was %s", stateOf(is))
	}
	intent := call.Intent(is.Labels[call.ReleasedLabel])
	if intent == "" || w.released[is.UID] {
		return
	}
	w.released[is.UID] = true
	// A deaf agent may have accepted a call; a pod on a lost node, unlocked, or past its
	// deadline, may hold some.
	if is.Annotations[fleet.DeafAnnotation] == "true" || is.Annotations[call.OnDeadlineAnnotation] == "Release" || intent == call.LostNode || intent == call.Unlock {
		return
	}
	for _, a := range stage.Fleet.Agents() {
		if a.UID == is.UID && a.ActiveJobs+len(a.Waiting) > 0 {
			fault(is, "was released with %d calls, and %d that were to begin", a.ActiveJobs, len(a.Waiting))
		}
	}
}

func (w *watch) noteLocked(pod string, state call.State) {
	if at := (moment{pod, state}); w.moments[at].IsZero() {
		w.moments[at] = time.Now()
	}
}

// since returns when a pod was first seen in a state; zero if never.
func (w *watch) since(pod string, state call.State) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moments[moment{pod, state}]
}

// countLocked records how many pods exist and how many can take calls.
func (w *watch) countLocked() {
	list, _ := w.lister.List(labels.Everything()) // from memory
	able, there := 0, 0
	for _, p := range list {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			there++
		}
		if ready(p) && !leaving(p) {
			able++
		}
	}
	if there > w.maxPods {
		w.maxPods, w.most = there, w.describe()
	}
	if able < w.minAble {
		w.minAble, w.fewest = able, w.describe()
	}
}

// reset forgets the recorded numbers.
func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.maxPods, w.minAble = 0, w.able()
	w.countLocked()
}

// unlocked allows pods of the story to be deleted without a release.
func (w *watch) unlocked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = true
}

// whenSeen calls f with every state of every pod.
func (w *watch) whenSeen(f func(*corev1.Pod)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = f
}

// able counts the pods that can take calls.
func (w *watch) able() int {
	return len(w.names(func(p *corev1.Pod) bool { return ready(p) && !leaving(p) }))
}

// names lists the pods for which keep is true.
func (w *watch) names(keep func(*corev1.Pod) bool) []string {
	list, _ := w.lister.List(labels.Everything()) // from memory
	var names []string
	for _, p := range list {
		if keep(p) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// describe describes the pods in a line.
func (w *watch) describe() string {
	list, _ := w.lister.List(labels.Everything()) // from memory
	var parts []string
	for _, p := range list {
		state := string(stateOf(p))
		if p.DeletionTimestamp != nil {
			state += ", terminating"
		}
		if !ready(p) {
			state += ", not ready"
		}
		parts = append(parts, fmt.Sprintf("%s (%s) on %s", p.Name, state, p.Spec.NodeName))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// runs reports whether a regular container runs.
func runs(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}
