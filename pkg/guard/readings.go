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

// Witness says how many calls a pod holds, as of now.
type Witness interface {
	Ask(ctx context.Context, pod *call.Pod) call.Reading
}

const (
	// readers bounds the pods that are asked at once: a witness that hangs keeps
	// one of them for as long as it may take.
	readers = 32
	// wantedFor is how long a pod is read after the last time somebody wanted it: longer than between two looks at one workload
	// of many on a busy API server, or what was read would be forgotten meanwhile, and since when it was so.
	wantedFor = 30 * time.Second
	// lingersFor is for how long LiveKit is asked of a pod after its gate has begun to count calls.
	lingersFor = 10 * time.Second
	// tellEvery bounds how often projects is told that less is wanted than before, which may wait.
	tellEvery = time.Second
	// whySpared is why LiveKit is not asked of a pod.
	whySpared = "call-gate counts calls, and that holds the pod"
)

// readings reads the witnesses of those pods that somebody wants to know about,
// over and over, and of no others.
//
// Of a pod that has a gate, the gate is asked first: as long as it counts calls, the pod
// stays, whatever LiveKit would say, and LiveKit is not asked. Once it counts none, or does
// not answer, LiveKit is.
type readings struct {
	witnesses map[call.Witness]Witness
	every     time.Duration
	now       func() time.Time
	// changed is told when a pod's readings say something else than before.
	changed func(types.UID)
	// projects is told which LiveKit projects the pods' rooms are of, when the pods were
	// born, and of which projects nobody has to know anything for now.
	projects func(wanted map[call.Project]call.Births, spared map[call.Project]bool)
	// lingers is for how long LiveKit is asked of a pod after its gate has begun to count calls.
	lingers time.Duration

	workers *fair.Workers

	mu      sync.Mutex
	queue   workqueue.TypedDelayingInterface[types.UID] // nil while run does not run
	records map[types.UID]*entry
	// told is when projects was told last, and untold that less is wanted since.
	told   time.Time
	untold bool
}

// entry is what is known of one pod.
type entry struct {
	pod   *call.Pod
	until time.Time // when nobody wants it any more
	// needed is until when LiveKit is asked of it, whatever its gate says.
	needed time.Time
	spared bool      // as projects was told
	first  time.Time // when it was first read
	began  time.Time // when a call was last seen to begin
	last   map[call.Witness]verdict.Reading
	// ability is what the pod's gate said last of whether it can take calls, and since
	// when it has said the same; empty before it was asked.
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

// run reads until ctx is done. What it has read is forgotten then.
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

// want has a pod read for a while, if run runs: all of its witnesses, or LiveKit only while
// its gate does not hold it.
func (r *readings) want(pod *call.Pod, all bool) { r.wantAll([]*call.Pod{pod}, all) }

// wantAll does the same for many, and tells projects once: that takes as long as there are pods.
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

// enterWish enters that a pod is wanted, and reports whether projects has to know. The lock is held.
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

// needs reports whether LiveKit is asked of the pod, whatever its gate says.
func (e *entry) needs(now time.Time) bool { return !now.After(e.needed) }

// turns reports whether projects has to be told something else of the pod than it was.
func (e *entry) turns(now time.Time) bool { return e.pod.Asks(call.Rooms) && e.spared == e.needs(now) }

// read asks the witnesses of a pod, and says how soon it is to be read again; never for zero.
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

// ask asks the witnesses of a pod: all of them at once, or LiveKit last, if the others
// leave it anything to say.
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

// askAll asks some witnesses of a pod at once.
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

// enter enters what the witnesses of a pod say, and reports whether it is anything new. The
// lock is held.
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

// turn enters that LiveKit has to be asked of a pod from now on, or has not. Of thousands of a project the first makes a
// difference, and the last. The lock is held.
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

// reads reports whether projects was told to read a project.
func (r *readings) reads(project call.Project) bool {
	for _, rec := range r.records {
		if !rec.spared && rec.pod.Asks(call.Rooms) && rec.pod.Project == project {
			return true
		}
	}
	return false
}

// enter enters what the witnesses say, and reports whether it is anything new.
//
// A call is taken to have begun when a number has grown, and when a number is back
// above zero after a time of not knowing. That none can begin any more is new, too: what
// others say counts from then on.
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

// of returns what is known of a pod, in the order of its witnesses, and since when
// no call has begun. Of a pod that was not read yet everything is unknown.
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

// fresh asks the witnesses of a pod now, and returns what of says then.
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

// merged is the number of calls of a pod, for choosing among pods: the largest
// that a witness knows, and unknown while one of them is. The latest call is the
// latest that any of them dates.
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

// knownSince reports whether every witness knows, from a time not before t.
func knownSince(list []verdict.Reading, t time.Time) bool {
	return !slices.ContainsFunc(list, func(r verdict.Reading) bool { return !r.Known() || r.At().Before(t) })
}

// agree reports whether all witnesses that know say the same number.
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

// tellLater says that less is wanted than before, if that was not said a moment ago; else whoever reads next does. The lock is held.
func (r *readings) tellLater() {
	if r.untold = r.now().Sub(r.told) < tellEvery && len(r.records) > 0; !r.untold {
		r.tellProjects()
	}
}

// tellProjects says which projects are wanted, and of which of them none of the pods needs
// anything for now. The lock is held.
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
