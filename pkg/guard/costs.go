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
	// costsEvery is how often deletion costs may change.
	costsEvery = time.Minute
	// costReads is how often serving pods are marked to be read meanwhile.
	costReads = wantedFor / 2
)

// keepCosts writes deletion costs to serving pods by their calls while the admission
// policies are not in effect, so that a controller that deletes a pod chooses one with few
// calls. That is only the best possible then: unready pods are deleted first, whatever
// their cost.
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
			written = g.now() // if the policies are missing only for a moment, nothing is written
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
		g.cfg.Log.Debug("Cannot write a deletion cost; retrying", "pod", m.NamespacedName.String(), "err", err)
	}
}

// band returns the deletion cost of a number of calls, in coarse steps so that it rarely
// changes. An unknown number may be large.
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
