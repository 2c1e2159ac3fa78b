// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// sameReading compares readings, whose fields are private.
func sameReading() cmp.Option { return cmp.AllowUnexported(call.Reading{}) }

func TestEnter(t *testing.T) {
	at := func(s int) time.Time { return noon().Add(time.Duration(s) * time.Second) }
	const unknown = -1
	type answers map[call.Witness]int
	// Each step is the witnesses' answers in one second, from zero on.
	cases := map[string]struct {
		reason  string
		steps   []answers
		changed []bool
		began   time.Time // zero: no beginning of a call was seen
		since   map[call.Witness]time.Time
	}{
		"Idle": {reason: "The same zero is the same since its first time.", steps: []answers{{call.Rooms: 0}, {call.Rooms: 0}, {call.Rooms: 0}}, changed: []bool{true, false, false},
			since: map[call.Witness]time.Time{call.Rooms: at(0)}},
		"BusyAtFirst": {reason: "When the calls of a first reading began is not known.", steps: []answers{{call.Rooms: 2}, {call.Rooms: 2}}, changed: []bool{true, false},
			since: map[call.Witness]time.Time{call.Rooms: at(0)}},
		"Rise":  {reason: "A call has begun.", steps: []answers{{call.Rooms: 0}, {call.Rooms: 1}, {call.Rooms: 1}}, changed: []bool{true, true, false}, began: at(1), since: map[call.Witness]time.Time{call.Rooms: at(1)}},
		"Rises": {reason: "The latest counts.", steps: []answers{{call.Rooms: 0}, {call.Rooms: 1}, {call.Rooms: 3}}, changed: []bool{true, true, true}, began: at(2), since: map[call.Witness]time.Time{call.Rooms: at(2)}},
		"Fall":  {reason: "A call is over; none has begun.", steps: []answers{{call.Rooms: 2}, {call.Rooms: 1}, {call.Rooms: 0}}, changed: []bool{true, true, true}, since: map[call.Witness]time.Time{call.Rooms: at(2)}},
		"GapThenCalls": {reason: "It is unknown whether these are the earlier calls.", steps: []answers{{call.Rooms: 2}, {call.Rooms: unknown}, {call.Rooms: 1}}, changed: []bool{true, true, true}, began: at(2),
			since: map[call.Witness]time.Time{call.Rooms: at(2)}},
		"GapThenZero": {reason: "Whatever began is over.", steps: []answers{{call.Rooms: 0}, {call.Rooms: unknown}, {call.Rooms: 0}}, changed: []bool{true, true, true},
			since: map[call.Witness]time.Time{call.Rooms: at(2)}},
		"UnknownAtFirst": {reason: "The same.", steps: []answers{{call.Rooms: unknown}, {call.Rooms: unknown}, {call.Rooms: 1}}, changed: []bool{true, false, true}, began: at(2),
			since: map[call.Witness]time.Time{call.Rooms: at(2)}},
		"GapOfAnother": {reason: "Each witness has its own row.", steps: []answers{{call.Rooms: 0, call.Worker: 0}, {call.Rooms: 0, call.Worker: unknown}, {call.Rooms: 0, call.Worker: 0}},
			changed: []bool{true, true, true}, since: map[call.Witness]time.Time{call.Rooms: at(0), call.Worker: at(2)}},
		"RiseOfAnother": {reason: "A job that has not joined its room yet has begun.", steps: []answers{{call.Rooms: 0, call.Worker: 0}, {call.Rooms: 0, call.Worker: 1}, {call.Rooms: 1, call.Worker: 1}},
			changed: []bool{true, true, true}, began: at(2), since: map[call.Witness]time.Time{call.Rooms: at(2), call.Worker: at(1)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := &entry{last: map[call.Witness]verdict.Reading{}}
			for i, step := range tc.steps {
				said := map[call.Witness]call.Reading{}
				for w, n := range step {
					said[w] = call.Known(n, at(i))
					if n == unknown {
						said[w] = call.Unknown("no route")
					}
				}
				if changed := e.enter(said, at(i)); changed != tc.changed[i] {
					t.Errorf("%s\nstep %d: changed %t", tc.reason, i, changed)
				}
			}
			if !e.first.Equal(at(0)) || !e.began.Equal(tc.began) {
				t.Errorf("%s\nfirst read %s, begun %s; want %s, %s", tc.reason, e.first, e.began, at(0), tc.began)
			}
			for w, want := range tc.since {
				if last := e.last[w]; !last.Since.Equal(want) || last.Witness != w {
					t.Errorf("%s\n%s says so since %s; want %s", tc.reason, last.Witness, last.Since, want)
				}
			}
		})
	}
}

func TestMerged(t *testing.T) {
	early, late := noon(), noon().Add(time.Second)
	began := noon().Add(-time.Hour)
	rooms := func(r call.Reading) verdict.Reading { return verdict.Reading{Witness: call.Rooms, Reading: r} }
	worker := func(r call.Reading) verdict.Reading { return verdict.Reading{Witness: call.Worker, Reading: r} }
	cases := map[string]struct {
		reason string
		list   []verdict.Reading
		want   call.Reading
	}{
		"None":         {reason: "No witness has answered.", want: call.Reading{}},
		"One":          {reason: "Its word.", list: []verdict.Reading{rooms(call.Known(2, early))}, want: call.Known(2, early)},
		"Largest":      {reason: "A job that has not joined its room yet counts.", list: []verdict.Reading{rooms(call.Known(1, early)), worker(call.Known(2, late))}, want: call.Known(2, late)},
		"LargestFirst": {reason: "In either order.", list: []verdict.Reading{worker(call.Known(2, late)), rooms(call.Known(1, early))}, want: call.Known(2, late)},
		"Unknown":      {reason: "For choosing which pod leaves, partly known is unknown.", list: []verdict.Reading{rooms(call.Known(2, early)), worker(call.Unknown("no route"))}, want: call.Unknown("no route")},
		"FirstUnknown": {reason: "In either order.", list: []verdict.Reading{worker(call.Unknown("no route")), rooms(call.Known(2, early))}, want: call.Unknown("no route")},
		"Newest":       {reason: "Only LiveKit dates calls; the larger number takes its date.", list: []verdict.Reading{rooms(call.Known(1, early).WithNewest(began)), worker(call.Known(2, late))}, want: call.Known(2, late).WithNewest(began)},
		"NewestLast":   {reason: "In either order.", list: []verdict.Reading{worker(call.Known(2, late)), rooms(call.Known(1, early).WithNewest(began))}, want: call.Known(2, late).WithNewest(began)},
		"NewestEqual":  {reason: "Also of equal numbers.", list: []verdict.Reading{worker(call.Known(1, late)), rooms(call.Known(1, early).WithNewest(began))}, want: call.Known(1, late).WithNewest(began)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, merged(tc.list), sameReading()); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// says is a witness that always answers the same, and counts requests.
type says struct {
	reading call.Reading
	asked   atomic.Int32
}

func (s *says) Ask(context.Context, *call.Pod) call.Reading {
	s.asked.Add(1)
	return s.reading
}

func TestReadings(t *testing.T) {
	now := noon()
	rooms, worker := &says{reading: call.Known(0, noon())}, &says{reading: call.Known(1, noon())}
	r := newReadings(map[call.Witness]Witness{call.Rooms: rooms, call.Worker: worker}, time.Second, func() time.Time { return now })
	r.reset(workqueue.NewTypedDelayingQueue[types.UID]())
	var changed []types.UID
	r.changed = func(uid types.UID) { changed = append(changed, uid) }
	var projects []map[call.Project]call.Births
	r.projects = func(p map[call.Project]call.Births, _ map[call.Project]bool) { projects = append(projects, p) }
	pod := &call.Pod{UID: "a", Witnesses: call.DefaultWitnesses(), Project: call.DefaultProject}

	list, quiet := r.of(pod)
	if len(list) != 2 || list[0].Known() || list[1].Known() || !quiet.Equal(now) {
		t.Errorf("before anybody wants to know: %v, quiet since %s; everything must be unknown, and not quiet before now", list, quiet)
	}
	if r.read(t.Context(), "a") > 0 || rooms.asked.Load() != 0 {
		t.Error("a pod that is not wanted is read")
	}

	r.want(pod, false)
	if diff := cmp.Diff(map[call.Project]call.Births{call.DefaultProject: {}}, projects[len(projects)-1]); diff != "" {
		t.Errorf("projects: -want, +got:\n%s", diff)
	}
	now = now.Add(time.Second)
	for range 2 {
		if r.read(t.Context(), "a") == 0 {
			t.Error("a wanted pod is not read again")
		}
	}
	if diff := cmp.Diff([]types.UID{"a"}, changed); diff != "" {
		t.Errorf("two equal readings are one change: -want, +got:\n%s", diff)
	}
	list, quiet = r.of(pod)
	want := []verdict.Reading{
		{Witness: call.Rooms, Reading: rooms.reading, Since: noon()}, {Witness: call.Worker, Reading: worker.reading, Since: noon()},
	}
	if diff := cmp.Diff(want, list, sameReading()); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if !quiet.Equal(now) {
		t.Errorf("quiet since %s, but it was not read before %s", quiet, now)
	}

	now = now.Add(time.Second)
	worker.reading = call.Known(2, now)
	if _, quiet = r.fresh(t.Context(), pod); !quiet.Equal(now) {
		t.Errorf("quiet since %s; a call was seen to begin at %s", quiet, now)
	}

	now = now.Add(wantedFor)
	if r.read(t.Context(), "a") == 0 && now.Sub(noon()) <= wantedFor {
		t.Error("given up too soon")
	}
	now = now.Add(time.Second)
	if r.read(t.Context(), "a") > 0 {
		t.Error("a pod that was last wanted long ago is read")
	}
	if len(projects[len(projects)-1]) != 0 {
		t.Errorf("projects without pods are wanted: %v", projects[len(projects)-1])
	}
}

func TestReadingsWithoutWitness(t *testing.T) {
	r := newReadings(map[call.Witness]Witness{call.Rooms: &says{reading: call.Known(0, noon())}}, time.Second, noon)
	r.reset(workqueue.NewTypedDelayingQueue[types.UID]())
	pod := &call.Pod{UID: "a", Witnesses: call.DefaultWitnesses()}
	r.want(pod, false)
	list, _ := r.fresh(t.Context(), pod)
	if list[1].Known() || list[1].Reason() != `there is no witness "worker"` {
		t.Errorf("a witness that is not there says %+v", list[1])
	}
}

// TestReadingsOfManySilentPods: one of two namespaces has a thousand pods that do not answer. The other's pod is still read,
// again and again.
func TestReadingsOfManySilentPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const silentFor, during = 2 * time.Second, 20 * time.Second
		var heard atomic.Int64
		witness := asked(func(ctx context.Context, pod *call.Pod) call.Reading {
			if pod.Namespace == "honest" {
				heard.Add(1)
				return call.Known(0, time.Now())
			}
			select {
			case <-time.After(silentFor):
			case <-ctx.Done():
			}
			return call.Unknown("it does not answer")
		})
		r := newReadings(map[call.Witness]Witness{call.Worker: witness}, time.Second, time.Now)
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- r.run(ctx) }()
		synctest.Wait()
		pod := func(namespace, uid string) *call.Pod {
			return &call.Pod{NamespacedName: types.NamespacedName{Namespace: namespace, Name: uid}, UID: types.UID(uid), Witnesses: []call.Witness{call.Worker}}
		}
		for range int(during / time.Second) {
			for i := range 1000 {
				r.want(pod("silent", fmt.Sprintf("silent-%d", i)), false)
			}
			r.want(pod("honest", "honest"), false)
			time.Sleep(time.Second)
		}
		if n := heard.Load(); n < int64(during/time.Second)-2 {
			t.Errorf("the honest pod was read %d times in %s beside a thousand silent ones; want once a second", n, during)
		}
		stop()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

type asked func(context.Context, *call.Pod) call.Reading

func (a asked) Ask(ctx context.Context, pod *call.Pod) call.Reading { return a(ctx, pod) }

// TestProjectsAreToldRarely wants a thousand pods of a project, which end one after the other. The final list is right, and
// all pods are visited only when it makes a difference, or once a second.
func TestProjectsAreToldRarely(t *testing.T) {
	const many = 1000
	now := noon()
	told, wanted := 0, map[call.Project]call.Births{}
	idle := &says{reading: call.Known(0, noon())}
	r := newReadings(map[call.Witness]Witness{call.Rooms: idle, call.Gate: idle}, time.Second, func() time.Time { return now })
	r.reset(workqueue.NewTypedDelayingQueue[types.UID]())
	r.projects = func(p map[call.Project]call.Births, _ map[call.Project]bool) { told++; wanted = p }
	var list []*call.Pod
	for i := range many {
		list = append(list, gatedPod(types.UID(fmt.Sprint(i))))
	}
	r.wantAll(list, false)
	for _, pod := range list { // each gate counts none, so LiveKit has to be asked from then on
		r.read(t.Context(), pod.UID)
	}
	if told > 2 || len(wanted) != 1 {
		t.Errorf("projects is called %d times for a thousand pods wanted at once, in the end with %v", told, wanted)
	}
	for i, pod := range list {
		if i%100 == 99 {
			now = now.Add(time.Second)
		}
		r.drop(pod.UID)
	}
	if told > 2+many/100+1 || len(wanted) != 0 {
		t.Errorf("projects is called %d times, in the end with %v; want about ten times, and none", told, wanted)
	}
}
