// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/lengths"
)

const (
	// maxLives is of how many jobs of a pod the age is read. Of a pod that has more, or so
	// many that they do not fit into an answer, no length is learnt.
	maxLives = 128
	// gaps is for how many intervals a gate may be silent. When a call ended that is over
	// after a longer time is anybody's guess.
	gaps = 3
)

// Life is a job that is a call, and how old it is by its gate's clock.
type Life struct {
	ID  uint64 // a hash: whoever owns the pod chooses how long an ID is
	Age time.Duration
}

// getLives is Get that has the ages of the calls, too.
func getLives(ctx context.Context, client *http.Client, pod *call.Pod) (Answer, error) {
	return get(ctx, client, pod, parseLives)
}

// parseLives is parse with the ages of the calls. Gates of before tell them, too.
func parseLives(body []byte, pod types.UID) (Answer, error) {
	a, raw, err := parseJobs(body, pod)
	if err != nil || !a.Known || a.Calls > maxLives || a.At.IsZero() {
		return a, err
	}
	var jobs [maxLives + 1]struct { // of an array no more is decoded than it holds
		ID      string
		Started time.Time
		Tried   bool
	}
	if raw == nil {
		a.Whole = a.Calls == 0
	} else {
		a.Whole = json.Unmarshal(raw, &jobs) == nil && jobs[maxLives].ID == ""
	}
	if !a.Whole {
		return a, nil
	}
	for _, j := range jobs {
		if j.ID == "" || j.Started.IsZero() || j.Tried {
			continue // none, an offer, or nobody's call
		}
		hash := fnv.New64a()
		_, _ = hash.Write([]byte(j.ID)) // it never fails
		a.Lives = append(a.Lives, Life{hash.Sum64(), max(0, a.At.Sub(j.Started))})
	}
	return a, nil
}

// lives learns how long the calls of pods last that name the gate as a witness, and not
// rooms, which would see each of them, too.
type lives struct {
	table func(*call.Pod) *lengths.Table
	gap   time.Duration

	mu sync.Mutex
	of map[types.UID]*seen
}

// seen are the calls that a pod's gate told of last, and when it was asked then.
type seen struct {
	at    time.Time
	since map[uint64]time.Time // by this program's clock
}

// heard learns from an answer. A call that it lacks has ended between it and the one before,
// halfway as far as anybody knows.
func (l *lives) heard(pod *call.Pod, a Answer, at time.Time) {
	if pod.Asks(call.Rooms) || !a.Whole {
		return
	}
	table := l.table(pod)
	if table == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.of[pod.UID]
	if was == nil || at.Sub(was.at) > l.gap {
		was = &seen{at: at}
	}
	is := &seen{at: at, since: make(map[uint64]time.Time, len(a.Lives))}
	for _, life := range a.Lives {
		since, known := was.since[life.ID]
		if known {
			table.Add(was.at.Sub(since), at.Sub(since), false)
		} else {
			since = at.Add(-life.Age)
		}
		is.since[life.ID] = since
	}
	for id, since := range was.since {
		if _, on := is.since[id]; !on {
			table.Add(was.at.Sub(since), was.at.Add(at.Sub(was.at)/2).Sub(since), true)
		}
	}
	l.of[pod.UID] = is
}

func (l *lives) gone(pod types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, pod)
}

// Ages returns how old the calls of a pod are, in no order. There are none of a reader that
// does not learn, nor of pods of which it does not.
func (r *Reader) Ages(pod *call.Pod, now time.Time) (ages []time.Duration) {
	if r.lives == nil {
		return nil
	}
	r.lives.mu.Lock()
	defer r.lives.mu.Unlock()
	if is := r.lives.of[pod.UID]; is != nil {
		for _, since := range is.since {
			ages = append(ages, max(0, now.Sub(since)))
		}
	}
	return ages
}
