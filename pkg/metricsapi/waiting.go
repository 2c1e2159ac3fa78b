// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// nobodyKnows is for a provider without a source of waiting calls.
func nobodyKnows(call.Project, time.Time) (call.Waiting, error) {
	return call.Waiting{}, errors.New("LiveKit is not asked which calls wait for an agent")
}

// queue has the calls that wait for some workloads.
type queue struct {
	calls   int
	at      time.Time // as of when it is known
	unknown error     // why more calls may wait
}

// waiting counts the calls that wait for an agent of each subject. A call that several
// subjects could take counts for each. If some calls are known to wait for a subject, that
// is its number. If none are known, but some may wait, the subject is unknown and left out;
// if that is so for all, it returns an error.
func (p *Provider) waiting(subjects []subject, d description, identifier custom_metrics.MetricIdentifier) ([]custom_metrics.MetricValue, error) {
	queues := p.queues(d.kind)
	values := make([]custom_metrics.MetricValue, 0, len(subjects))
	var unknown error
	for _, s := range subjects {
		key := s.name
		if d.kind == pods.Namespace {
			key.Namespace, key.Name = s.name.Name, ""
		}
		q, is := queues[key]
		switch {
		case !is && d.kind == pods.Namespace:
			q = &queue{at: p.now()} // nothing in the namespace takes calls
		case !is:
			continue // the object is gone meanwhile
		case q.calls == 0 && q.unknown != nil:
			if unknown == nil {
				unknown = q.unknown
			}
			continue
		}
		values = append(values, custom_metrics.MetricValue{
			DescribedObject: custom_metrics.ObjectReference{Kind: d.kind, APIVersion: d.apiVersion, Namespace: s.name.Namespace, Name: s.name.Name},
			Metric:          identifier,
			Timestamp:       metav1.NewTime(q.at),
			Value:           *resource.NewQuantity(int64(q.calls), resource.DecimalSI),
		})
	}
	if len(values) == 0 && unknown != nil {
		return nil, unavailable("%s is not known: %v", WaitingCalls, unknown)
	}
	return values, nil
}

// queues counts the calls that wait for each Deployment, StatefulSet or Namespace, by kind.
func (p *Provider) queues(kind string) map[types.NamespacedName]*queue {
	now := p.now()
	takers := map[call.Project][]pods.Taker{}
	for _, t := range p.store.Takers() {
		takers[t.Project] = append(takers[t.Project], t)
	}
	queues := map[types.NamespacedName]*queue{}
	for project, takers := range takers {
		waiting, err := p.Waiting(project, now)
		if err == nil && waiting.Unknown > 0 {
			err = fmt.Errorf("%d rooms of LiveKit project %s have a caller and no agent, and it is not known whether they asked for one: %s", waiting.Unknown, project, waiting.Why)
		}
		of := make([]*queue, len(takers)) // nil for takers of another kind
		demands := make([]call.Demand, len(takers))
		for i, t := range takers {
			demands[i] = t.Demand
			name := t.NamespacedName
			if kind == pods.Namespace {
				name.Name = ""
			} else if t.Kind != kind {
				continue
			}
			q := queues[name]
			if q == nil {
				q = &queue{at: now}
				queues[name] = q
			}
			of[i] = q
			if err != nil {
				q.unknown = err
			} else if waiting.At.Before(q.at) {
				q.at = waiting.At
			}
		}
		for _, room := range waiting.Rooms {
			counted := map[*queue]bool{}
			for i, takes := range room.Takers(demands) {
				if q := of[i]; takes && q != nil && !counted[q] {
					counted[q] = true
					q.calls++
				}
			}
		}
	}
	return queues
}
