// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// costsEvery is how often deletion costs may change, of a pod and so of all.
	costsEvery = time.Minute
	// costReads is how often it is seen to that serving pods are read meanwhile.
	costReads = wantedFor / 2
)

// keepCosts writes, while the doors are not in force, how much each serving pod
// has to lose, so that whoever deletes one takes the cheapest. It is the best that
// can be done then, and no promise: unready pods come before any cost.
func (g *Guard) keepCosts(ctx context.Context) error {
	tick := time.NewTicker(costReads)
	defer tick.Stop()
	written := g.now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !g.cluster.ready() || g.cfg.Doors.InForce() == nil {
			written = g.now() // doors that are missed for a moment are worth no write
			continue
		}
		serving := g.servingPods()
		for _, m := range serving {
			g.readings.want(m.Pod, true)
		}
		if g.now().Sub(written) < costsEvery {
			continue
		}
		written = g.now()
		for _, m := range serving {
			g.writeCost(ctx, m)
		}
	}
}

func (g *Guard) servingPods() []*member {
	list, err := g.cluster.pods.List(labels.Everything())
	if err != nil {
		return nil // an informer's list does not fail
	}
	var serving []*member
	for _, pod := range list {
		m := (&snapshot{}).member(pod)
		if g.cluster.enabled(pod.Namespace) && !m.Terminating && m.Running && m.State == call.Serving {
			serving = append(serving, m)
		}
	}
	return serving
}

func (g *Guard) writeCost(ctx context.Context, m *member) {
	readings, _ := g.readings.of(m.Pod)
	cost := strconv.Itoa(band(merged(readings)))
	if m.object.Annotations[costAnnotation] == cost {
		return
	}
	if _, err := g.steps.patch(ctx, m.object, change{Annotations: map[string]*string{costAnnotation: &cost}}); err != nil {
		g.cfg.Log.Debug("A deletion cost is not written; the next round will", "pod", m.NamespacedName.String(), "err", err)
	}
}

// band is the deletion cost of so many calls, coarse enough to change rarely. What
// nobody knows may be much.
func band(calls call.Reading) int {
	n, known := calls.Calls()
	switch {
	case !known, n >= 10:
		return 300
	case n >= 3:
		return 200
	case n >= 1:
		return 100
	default:
		return 0
	}
}
