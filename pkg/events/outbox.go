// SPDX-License-Identifier: Apache-2.0

package events

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
)

// How important an Event is. It decides how long the Event waits, and which one comes first
// if there are more than may be written.
const (
	// Passing is for a step that is usually followed within seconds by the next one, whose
	// Event makes this one unnecessary.
	Passing Weight = iota
	// Lasting is for what matters to people only once it has lasted for a while.
	Lasting
	// Final is for the last step of a pod. It is reported at once if the pod has an Event already. Otherwise it waits, and if the
	// pod is gone by then, only its workload and node have the Event.
	Final
	// Notable is for what is reported at once.
	Notable
)

// Weight is how important an Event is.
type Weight int

// waits returns how long an Event on a pod waits for the next step.
func (w Weight) waits() time.Duration {
	return [...]time.Duration{15 * time.Second, 10 * time.Second, time.Minute, 0}[w]
}

const (
	// gathers is how long Events on a workload or node wait for those about its other pods, and gathersOn how long if there were
	// others a moment ago.
	gathers, gathersOn = 15 * time.Second, time.Minute
	// perSecond and burst limit what is handed to the recorder, whose own queue drops Events when it is
	// full.
	perSecond, burst = 50, 200
	// named is how many pods an Event names in addition to the first.
	named = 20
	// handOver is how often due Events are handed to the recorder.
	handOver = 250 * time.Millisecond
)

// Step is what is reported about a pod: "Pod NAME What: Why".
type Step struct {
	Pod          types.NamespacedName
	Type, Reason string
	What, Why    string
	Weight       Weight

	// ripe is when the step has lasted for long enough to be reported.
	ripe time.Time
}

// Outbox reports the steps of pods in few Events. An Event that is likely to be followed by
// another about the same pod waits for that, and pods of a workload or node that do the
// same share an Event. Each pod has at most one waiting Event, which the next step
// replaces, so that the number of Events stays limited with many pods. A Warning is never
// replaced.
type Outbox struct {
	recorder record.EventRecorder
	limit    flowcontrol.PassiveRateLimiter

	mu    sync.Mutex
	boxes map[types.UID]*box
	// told are the pods that have an Event of their own.
	told map[types.UID]bool
	// shared is when workloads and nodes had their last Event.
	shared map[types.UID]time.Time
}

// box has the Events that wait on one object.
type box struct {
	object runtime.Object
	due    time.Time
	steps  map[types.UID]Step // by pod
	shared bool               // the object is a workload or a node
	gone   bool               // the object is a pod that does not exist any more
}

// NewOutbox returns an Outbox that hands due Events to the recorder while Run is running.
func NewOutbox(recorder record.EventRecorder) *Outbox {
	return &Outbox{recorder: recorder, limit: flowcontrol.NewTokenBucketPassiveRateLimiter(perSecond, burst), boxes: map[types.UID]*box{}, told: map[types.UID]bool{}, shared: map[types.UID]time.Time{}}
}

// Tell queues the Event about a pod's step, on the pod and on others, such as its workload.
func (o *Outbox) Tell(now time.Time, pod *corev1.Pod, s Step, others ...*corev1.ObjectReference) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if was := o.boxes[pod.UID]; was != nil && was.steps[pod.UID].Type == corev1.EventTypeWarning {
		o.write(now, pod.UID, was)
	}
	if s.Weight == Final && (o.told[pod.UID] || len(others) == 0) {
		s.Weight = Notable
	}
	s.ripe = now.Add(s.Weight.waits())
	o.boxes[pod.UID] = &box{object: pod, due: s.ripe, steps: map[types.UID]Step{pod.UID: s}}
	for _, ref := range others {
		b := o.boxes[ref.UID]
		if b == nil {
			b = &box{object: ref, due: now.Add(gathersOn), steps: map[types.UID]Step{}, shared: true}
			o.boxes[ref.UID] = b
		}
		if soon := now.Add(gathers); b.due.After(soon) && (s.Weight == Notable || now.Sub(o.shared[ref.UID]) > gathersOn) {
			b.due = soon
		}
		if s.Weight > Passing {
			s.ripe = now
		}
		if b.steps[pod.UID].Type != corev1.EventTypeWarning {
			b.steps[pod.UID] = s
		}
	}
}

// Gone forgets a pod that does not exist any more, and its final Event if that still waits: its workload or node has it.
func (o *Outbox) Gone(pod types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.told, pod)
	switch b := o.boxes[pod]; {
	case b == nil:
	case b.steps[pod].Weight == Final:
		delete(o.boxes, pod)
	default:
		b.gone = true
	}
}

// Run hands over due Events until ctx is done, and then the remaining ones.
func (o *Outbox) Run(ctx context.Context) {
	ticker := time.NewTicker(handOver)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			o.handOver(time.Time{}, func() bool { return true })
			return
		case now := <-ticker.C:
			o.handOver(now, o.limit.TryAccept)
		}
	}
}

// handOver writes due Events as long as accepts returns true, the most important first, and
// then those that have waited longest. With the zero time all are due.
func (o *Outbox) handOver(now time.Time, accepts func() bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	type entry struct {
		uid    types.UID
		weight Weight
		due    time.Time
	}
	var due []entry
	for uid, b := range o.boxes {
		if now.IsZero() || !b.due.After(now) {
			due = append(due, entry{uid, b.weight(), b.due})
		}
	}
	slices.SortFunc(due, func(a, b entry) int {
		return cmp.Or(-cmp.Compare(a.weight, b.weight), a.due.Compare(b.due), cmp.Compare(a.uid, b.uid))
	})
	maps.DeleteFunc(o.shared, func(_ types.UID, at time.Time) bool { return now.Sub(at) > gathersOn })
	for _, e := range due {
		if !accepts() {
			return
		}
		b := o.boxes[e.uid]
		o.write(now, e.uid, b)
		if b.due = now.Add(gathers); len(b.steps) == 0 {
			delete(o.boxes, e.uid)
		}
	}
}

func (b *box) weight() (most Weight) {
	for _, s := range b.steps {
		if s.Type == corev1.EventTypeWarning {
			return Notable
		}
		most = max(most, s.Weight)
	}
	return most
}

// write writes the Events that wait on an object, except of steps that may be followed yet. Pods that do the same for the same
// reason share one.
func (o *Outbox) write(now time.Time, uid types.UID, b *box) {
	type same struct{ kind, reason, what, why string }
	groups := map[same][]string{}
	for pod, s := range b.steps {
		if now.IsZero() || !s.ripe.After(now) {
			key := same{s.Type, s.Reason, s.What, s.Why}
			groups[key] = append(groups[key], s.Pod.String())
			delete(b.steps, pod)
		}
	}
	switch {
	case b.shared && len(groups) > 0:
		o.shared[uid] = now
	case !b.shared && !b.gone:
		o.told[uid] = true
	}
	keys := make([]same, 0, len(groups))
	for key, names := range groups {
		slices.Sort(names)
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b same) int { return strings.Compare(groups[a][0], groups[b][0]) })
	for _, key := range keys {
		o.recorder.Event(b.object, key.kind, key.reason, text(groups[key], key.what, key.why))
	}
}

// text returns the text about pods, given by name, that do the same.
func text(pods []string, what, why string) string {
	first := fmt.Sprintf("Pod %s %s: %s", pods[0], what, why)
	switch others := pods[1:]; {
	case len(others) == 0:
		return first
	case len(others) > named:
		return fmt.Sprintf("%s; likewise %s and %d more", first, strings.Join(others[:named], ", "), len(others)-named)
	default:
		return first + "; likewise " + strings.Join(others, ", ")
	}
}
