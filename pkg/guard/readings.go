// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/fair"
	"github.com/callguard/callguard/pkg/verdict"
)

// Witness returns how many calls a pod holds now.
type Witness interface {
	Ask(ctx context.Context, pod *call.Pod) call.Reading
}

const (
	// readers is how many pods are asked at the same time. A witness that hangs occupies one
	// of them until its timeout.
	readers = 32
	// wantedFor is how long a pod is read after it was last wanted. It is longer than the time between two looks at one of many
	// workloads on a busy API server; otherwise readings, and since when they hold, would be forgotten in between.
	wantedFor = 30 * time.Second
	// lingersFor is how long LiveKit is still asked about a pod after its gate has begun to count
	// calls.
	lingersFor = 10 * time.Second
	// tellEvery is the minimum time between calls of projects that only reduce what is wanted,
	// which is not urgent.
	tellEvery = time.Second
	// whySpared is the reason why LiveKit is not asked about a pod.
	whySpared = "call-gate counts calls, and that holds the pod"
)

// readings repeatedly asks the witnesses of the pods that are wanted, and of no others.
//
// If a pod has a gate, that is asked first. As long as it counts calls, the pod stays
// whatever LiveKit would say, and LiveKit is not asked. LiveKit is asked once the gate
// counts none or does not answer.
type readings struct {
	witnesses map[call.Witness]Witness
	every     time.Duration
	now       func() time.Time
	// changed is called when a pod's readings have changed.
	changed func(types.UID)
	// projects is called with the LiveKit projects of the wanted pods, when these pods were
	// created, and which projects need not be read for now.
	projects func(wanted map[call.Project]call.Births, spared map[call.Project]bool)
	// lingers is how long LiveKit is still asked about a pod after its gate has begun to count
	// calls.
	lingers time.Duration

	workers *fair.Workers

	mu      sync.Mutex
	queue   workqueue.TypedDelayingInterface[types.UID] // nil while run is not running
	records map[types.UID]*entry
	// told is when projects was last called; untold reports that less is wanted since then.
	told   time.Time
	untold bool
}

// entry is what is known of one pod.
type entry struct {
	pod   *call.Pod
	until time.Time // until when it is wanted
	// needed is until when LiveKit is asked about it, whatever its gate says.
	needed time.Time
	spared bool      // as last passed to projects
	first  time.Time // when it was first read
	began  time.Time // when a call was last seen to begin
	last   map[call.Witness]verdict.Reading
	// ability is the pod's ability to take calls as its gate last reported it, and since when
	// it has reported the same; empty before the first answer.
	ability      call.Ability
	abilitySince time.Time
}

func newEntry(pod *call.Pod, until time.Time) *entry {
	return &entry{pod: pod, until: until, last: map[call.Witness]verdict.Reading{}}
}

func newReadings(witnesses map[call.Witness]Witness, every time.Duration, now func() time.Time) *readings {
	return &readings{
		witnesses: witnesses, every: every, now: now,
		changed: func(types.UID) {}, projects: func(map[call.Project]call.Births, map[call.Project]bool) {},
		lingers: lingersFor, workers: fair.NewWorkers(readers), records: map[types.UID]*entry{},
	}
}

// run reads until ctx is done. Then all readings are forgotten.
func (r *readings) run(ctx context.Context) error {
	queue := workqueue.NewTypedDelayingQueue[types.UID]()
	r.reset(queue)
	defer r.reset(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		queue.ShutDown()
		return nil
	})
	for range readers {
		g.Go(func() error {
			for {
				uid, shutdown := queue.Get()
				if shutdown {
					return nil
				}
				if again := r.read(ctx, uid); again > 0 {
					queue.AddAfter(uid, again)
				}
				queue.Done(uid)
			}
		})
	}
	return g.Wait()
}

func (r *readings) reset(queue workqueue.TypedDelayingInterface[types.UID]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue, r.records = queue, map[types.UID]*entry{}
	r.tellProjects()
}

// want has a pod read for a while, if run is running: all of its witnesses, or LiveKit only
// while its gate does not hold it.
func (r *readings) want(pod *call.Pod, all bool) { r.wantAll([]*call.Pod{pod}, all) }

// wantAll does the same for many pods, and calls projects only once, because that takes time in
// proportion to all pods.
func (r *readings) wantAll(list []*call.Pod, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue == nil {
		return
	}
	news := false
	for _, pod := range list {
		news = r.enterWish(pod, all) || news
	}
	if news {
		r.tellProjects()
	}
}

// enterWish records that a pod is wanted, and reports whether projects has to be called. The lock is
// held.
func (r *readings) enterWish(pod *call.Pod, all bool) (news bool) {
	rec := r.records[pod.UID]
	if rec == nil {
		rec = newEntry(nil, time.Time{})
		r.records[pod.UID] = rec
		r.queue.Add(pod.UID)
	}
	news = rec.pod == nil || rec.pod.Project != pod.Project || rec.pod.Asks(call.Rooms) != pod.Asks(call.Rooms)
	rec.pod, rec.until = pod, r.now().Add(wantedFor)
	if all || !pod.Asks(call.Gate) {
		rec.needed = r.now().Add(lingersFor)
	}
	return news || rec.turns(r.now())
}

// drop forgets a pod that is gone.
func (r *readings) drop(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records[uid] != nil {
		delete(r.records, uid)
		r.tellLater()
	}
}

// needs reports whether LiveKit is asked about the pod, whatever its gate says.
func (e *entry) needs(now time.Time) bool { return !now.After(e.needed) }

// turns reports whether what was passed to projects about the pod is no longer true.
func (e *entry) turns(now time.Time) bool { return e.pod.Asks(call.Rooms) && e.spared == e.needs(now) }

// read asks the witnesses of a pod, and returns how soon it has to be read again; zero means
// never.
func (r *readings) read(ctx context.Context, uid types.UID) (again time.Duration) {
	r.mu.Lock()
	rec := r.records[uid]
	if rec == nil || r.now().After(rec.until) {
		delete(r.records, uid)
		r.tellLater()
		r.mu.Unlock()
		return 0
	}
	if r.untold {
		r.tellLater()
	}
	pod, all := rec.pod, rec.needs(r.now())
	r.mu.Unlock()

	if !r.workers.Take(pod.Namespace) {
		return fair.Again
	}
	answers := r.ask(ctx, pod, all)
	r.workers.Give(pod.Namespace)

	r.mu.Lock()
	changed := r.enter(rec, answers)
	r.mu.Unlock()
	if changed {
		r.changed(uid)
	}
	return r.every
}

// ask asks the witnesses of a pod: all of them at once, or LiveKit last and only if the
// answers of the others do not decide already.
func (r *readings) ask(ctx context.Context, pod *call.Pod, all bool) map[call.Witness]call.Reading {
	if all || !pod.Asks(call.Gate) || !pod.Asks(call.Rooms) {
		return r.askAll(ctx, pod, pod.Witnesses)
	}
	answers := r.askAll(ctx, pod, slices.DeleteFunc(slices.Clone(pod.Witnesses), func(w call.Witness) bool { return w == call.Rooms }))
	if n, known := answers[call.Gate].Calls(); known && n > 0 {
		answers[call.Rooms] = call.Spared(whySpared)
		return answers
	}
	maps.Copy(answers, r.askAll(ctx, pod, []call.Witness{call.Rooms}))
	return answers
}

// askAll asks the given witnesses of a pod at the same time.
func (r *readings) askAll(ctx context.Context, pod *call.Pod, names []call.Witness) map[call.Witness]call.Reading {
	answers := make([]call.Reading, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		if witness := r.witnesses[name]; witness != nil {
			all.Go(func() { answers[i] = witness.Ask(ctx, pod) })
		} else {
			answers[i] = call.Unknown("there is no witness %q", name)
		}
	}
	all.Wait()
	byName := make(map[call.Witness]call.Reading, len(answers))
	for i, name := range names {
		byName[name] = answers[i]
	}
	return byName
}

// enter records what the witnesses of a pod say, and reports whether anything has changed.
// The lock is held.
func (r *readings) enter(rec *entry, answers map[call.Witness]call.Reading) (changed bool) {
	now := r.now()
	if n, known := answers[call.Gate].Calls(); !known || n == 0 {
		if until := now.Add(r.lingers); until.After(rec.needed) {
			rec.needed = until
		}
	}
	changed = rec.enter(answers, now)
	if rec.turns(now) {
		r.turn(rec, now)
	}
	return changed
}

// turn records whether LiveKit has to be asked about a pod from now on. Of the thousands of pods that a project may
// have, only the first and the last make a difference. The lock is held.
func (r *readings) turn(rec *entry, now time.Time) {
	switch {
	case !rec.needs(now):
		r.tellLater()
	case r.reads(rec.pod.Project):
		rec.spared = false
	default:
		r.tellProjects()
	}
}

// reads reports whether projects was last called with a project as wanted.
func (r *readings) reads(project call.Project) bool {
	for _, rec := range r.records {
		if !rec.spared && rec.pod.Asks(call.Rooms) && rec.pod.Project == project {
			return true
		}
	}
	return false
}

// enter records what the witnesses say, and reports whether anything has changed.
//
// A call counts as begun when a number has grown, or when it is above zero after having
// been unknown. It is also a change if no call can begin any more, because from then on the
// answers of other witnesses count.
func (e *entry) enter(answers map[call.Witness]call.Reading, now time.Time) (changed bool) {
	if e.first.IsZero() {
		e.first = now
	}
	for name, answer := range answers {
		if name == call.Gate {
			changed = e.hearAbility(answer, now) || changed
		}
		before, seen := e.last[name]
		was, wasKnown := before.Calls()
		is, known := answer.Calls()
		same := seen && known == wasKnown && is == was && answer.Unattributed() == before.Unattributed() && answer.Sealed() == before.Sealed()
		if seen && known && is > 0 && (!wasKnown || is > was) {
			e.began = now
		}
		since := answer.At()
		if same {
			since = before.Since
		}
		e.last[name] = verdict.Reading{Witness: name, Reading: answer, Since: since}
		changed = changed || !same
	}
	return changed
}

// of returns what is known of a pod, in the order of its witnesses, and since when no call
// has begun. Everything is unknown if the pod was not read yet.
func (r *readings) of(pod *call.Pod) (list []verdict.Reading, quiet time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[pod.UID]
	for _, name := range pod.Witnesses {
		reading := verdict.Reading{Witness: name}
		if rec != nil {
			if last, ok := rec.last[name]; ok {
				reading = last
			}
		}
		list = append(list, reading)
	}
	if rec == nil || rec.first.IsZero() {
		return list, r.now()
	}
	quiet = rec.first
	if rec.began.After(quiet) {
		quiet = rec.began
	}
	return list, quiet
}

// fresh asks the witnesses of a pod now, and then returns the same as of.
func (r *readings) fresh(ctx context.Context, pod *call.Pod) ([]verdict.Reading, time.Time) {
	r.mu.Lock()
	rec := r.records[pod.UID]
	all := rec == nil || rec.needs(r.now())
	r.mu.Unlock()
	answers := r.ask(ctx, pod, all)
	r.mu.Lock()
	if rec := r.records[pod.UID]; rec != nil {
		r.enter(rec, answers)
	}
	r.mu.Unlock()
	return r.of(pod)
}

// merged returns the number of calls of a pod, for choosing among pods: the largest that a
// witness knows, or unknown if any witness is. The latest call is the latest that any of
// them reports.
func merged(list []verdict.Reading) call.Reading {
	var most call.Reading
	var newest time.Time
	for i, reading := range list {
		n, known := reading.Calls()
		if !known {
			return reading.Reading
		}
		if m, _ := most.Calls(); i == 0 || n > m {
			most = reading.Reading
		}
		if reading.Newest().After(newest) {
			newest = reading.Newest()
		}
	}
	return most.WithNewest(newest)
}

// knownSince reports whether every witness has a known reading that is not older than t.
func knownSince(list []verdict.Reading, t time.Time) bool {
	return !slices.ContainsFunc(list, func(r verdict.Reading) bool { return !r.Known() || r.At().Before(t) })
}

// agree reports whether all known readings have the same number.
func agree(list []verdict.Reading) bool {
	said := map[int]bool{}
	for _, r := range list {
		if n, known := r.Calls(); known {
			said[n] = true
		}
	}
	return len(said) <= 1
}

// sealed reports whether a witness knows that no call can begin any more.
func sealed(list []verdict.Reading) bool {
	return slices.ContainsFunc(list, func(r verdict.Reading) bool { return r.Sealed() })
}

// tellLater calls projects because less is wanted than before. If projects was called a moment ago, the next read does it
// instead. The lock is held.
func (r *readings) tellLater() {
	if r.untold = r.now().Sub(r.told) < tellEvery && len(r.records) > 0; !r.untold {
		r.tellProjects()
	}
}

// tellProjects calls projects with the wanted projects and with those that none of the pods
// needs for now. The lock is held.
func (r *readings) tellProjects() {
	r.told, r.untold = r.now(), false
	wanted, spared := map[call.Project]call.Births{}, map[call.Project]bool{}
	for _, rec := range r.records {
		if !rec.pod.Asks(call.Rooms) {
			continue
		}
		project := rec.pod.Project
		rec.spared = !rec.needs(r.now())
		_, others := wanted[project]
		spared[project] = rec.spared && (!others || spared[project])
		wanted[project] = wanted[project].With(rec.pod.Born)
	}
	r.projects(wanted, spared)
}
