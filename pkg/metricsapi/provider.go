// SPDX-License-Identifier: Apache-2.0

// Package metricsapi answers requests of custom.metrics.k8s.io from the witnesses'
// readings.
//
// Every answer comes from memory: no request reaches LiveKit, an agent or the Kubernetes
// API. The package never invents a value. Unknown pods are left out. If too little is
// known, the answer is 503 with the reason, and the HorizontalPodAutoscaler keeps its
// replica count. Such a 503 has no Retry-After: client-go would sleep for it, and so block
// the few workers that all autoscalers share.
package metricsapi

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/witness"
)

// StateLabel is a label of the metrics by which a metric selector can choose pods: serving,
// aside, draining or released.
const StateLabel = "state"

// Provider serves the metrics.
type Provider struct {
	// Waiting returns what is known of the calls of a LiveKit project that wait for an agent.
	Waiting func(call.Project, time.Time) (call.Waiting, error)
	// Load returns the load that a pod's worker reports, from 0 to 1, if it is known.
	Load func(*call.Pod, time.Time) (load float64, known bool)

	store   *pods.Store
	ledger  *witness.Ledger
	now     func() time.Time
	lengths *Lengths
}

var _ provider.CustomMetricsProvider = (*Provider)(nil)

// New returns a Provider that takes its answers from store, ledger and lengths.
func New(store *pods.Store, l *witness.Ledger, lengths *Lengths, now func() time.Time) *Provider {
	return &Provider{Waiting: nobodyKnows, Load: nobodySays, store: store, ledger: l, now: now, lengths: lengths}
}

// ListAllMetrics lists the metrics, which never change.
func (p *Provider) ListAllMetrics() []provider.CustomMetricInfo {
	var infos []provider.CustomMetricInfo
	for _, d := range described() {
		for _, metric := range d.metrics {
			infos = append(infos, provider.CustomMetricInfo{GroupResource: d.resource, Namespaced: d.namespaced, Metric: metric})
		}
	}
	return infos
}

// GetMetricByName returns a metric of one object.
func (p *Provider) GetMetricByName(_ context.Context, name types.NamespacedName, info provider.CustomMetricInfo, metricSelector labels.Selector) (*custom_metrics.MetricValue, error) {
	d, identifier, err := p.resolve(info, metricSelector)
	if err != nil {
		return nil, err
	}
	members, err := p.members(d, name)
	if err != nil {
		return nil, err
	}
	values, err := p.values([]subject{{name, members}}, d, identifier, metricSelector)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 && identifier.Name == WaitingCalls {
		return nil, p.notGuarded(d, name)
	}
	if len(values) == 0 {
		return nil, apierrors.NewNotFound(d.resource, fmt.Sprintf("%s (its %s is not selected by %q)", name.Name, StateLabel, metricSelector))
	}
	return &values[0], nil
}

// GetMetricBySelector returns a metric of all objects that match a selector.
func (p *Provider) GetMetricBySelector(_ context.Context, namespace string, selector labels.Selector, info provider.CustomMetricInfo, metricSelector labels.Selector) (*custom_metrics.MetricValueList, error) {
	d, identifier, err := p.resolve(info, metricSelector)
	if err != nil {
		return nil, err
	}
	values, err := p.values(p.subjects(d, namespace, selector), d, identifier, metricSelector)
	if err != nil {
		return nil, err
	}
	return &custom_metrics.MetricValueList{Items: values}, nil
}

// resolve finds what is requested, or returns the same error as the Kubernetes API if it
// does not exist.
func (p *Provider) resolve(info provider.CustomMetricInfo, selector labels.Selector) (description, custom_metrics.MetricIdentifier, error) {
	d, ok := describe(info)
	if !ok {
		return d, custom_metrics.MetricIdentifier{}, provider.NewMetricNotFoundError(info.GroupResource, info.Metric)
	}
	identifier := custom_metrics.MetricIdentifier{Name: info.Metric}
	if selector == nil || selector.Empty() {
		return d, identifier, nil
	}
	requirements, _ := selector.Requirements()
	if info.Metric == UntilIdle {
		if _, err := quantile(selector); err != nil {
			return d, identifier, apierrors.NewBadRequest(err.Error())
		}
	}
	for _, r := range requirements {
		if info.Metric == WaitingCalls {
			return d, identifier, apierrors.NewBadRequest(fmt.Sprintf("metric selector %q names label %q; %s has no labels, so leave the selector out", selector, r.Key(), WaitingCalls))
		}
		if info.Metric != UntilIdle && r.Key() != StateLabel {
			return d, identifier, apierrors.NewBadRequest(fmt.Sprintf(
				"metric selector %q names label %q; %s has the label %q, one of %v", selector, r.Key(), info.Metric, StateLabel, call.States()))
		}
	}
	parsed, err := metav1.ParseToLabelSelector(selector.String())
	if err != nil {
		return d, identifier, apierrors.NewBadRequest(fmt.Sprintf("metric selector %q: %v", selector, err))
	}
	identifier.Selector = parsed
	return d, identifier, nil
}

// subject is an object and the guarded pods that its metrics are about.
type subject struct {
	name types.NamespacedName
	pods []*call.Pod
}

// values returns a metric of subjects. Pods that are unknown or in another state than
// selected are left out, and so are other subjects of which too little is known. If too
// little is known of all of them together, it returns an error.
func (p *Provider) values(subjects []subject, d description, identifier custom_metrics.MetricIdentifier, selector labels.Selector) ([]custom_metrics.MetricValue, error) {
	if identifier.Name == UntilIdle {
		return p.untilIdle(subjects, d, identifier, selector)
	}
	if identifier.Name == WaitingCalls {
		return p.waiting(subjects, d, identifier)
	}
	look := p.look(selector)
	values := make([]custom_metrics.MetricValue, 0, len(subjects))
	var all tally
	for _, s := range subjects {
		t := look.tally(s.pods)
		all.add(t)
		if d.isPod() && t.known == 0 || !d.isPod() && t.tooLittleKnown(identifier.Name) != nil {
			continue
		}
		values = append(values, custom_metrics.MetricValue{
			DescribedObject: custom_metrics.ObjectReference{Kind: d.kind, APIVersion: d.apiVersion, Namespace: s.name.Namespace, Name: s.name.Name},
			Metric:          identifier,
			Timestamp:       metav1.NewTime(t.at),
			Value:           *resource.NewQuantity(t.value(identifier.Name), resource.DecimalSI),
		})
	}
	if err := all.tooLittleKnown(identifier.Name); err != nil {
		return nil, err
	}
	return values, nil
}

// look is one look at the ledger, for one request.
type look struct {
	ledger   *witness.Ledger
	store    *pods.Store
	now      time.Time
	selector labels.Selector // of the metric; nil for everything
	last     *freshness      // of the project of the pod before
}

// freshness is why a project cannot be believed, if so.
type freshness struct {
	project call.Project
	known   bool
	err     error
}

func (p *Provider) look(selector labels.Selector) look {
	if selector != nil && selector.Empty() {
		selector = nil
	}
	return look{ledger: p.ledger, store: p.store, now: p.now(), selector: selector, last: &freshness{}}
}

func (l look) tally(members []*call.Pod) tally {
	t := tally{at: l.now}
	for _, pod := range members {
		if l.selector != nil && !l.selector.Matches(labels.Set{StateLabel: string(pod.State)}) {
			continue
		}
		if t.stale == nil && pod.Running && pod.Asks(call.Rooms) {
			t.stale = l.stale(pod.Project)
		}
		reading := l.ledger.Reading(pod, l.now)
		t.count(pod, reading, !reading.Known() && l.store.Lost(pod))
	}
	return t
}

// stale returns why a project cannot be believed, if so. Most pods of a list have the same
// project as the one before.
func (l look) stale(project call.Project) error {
	if !l.last.known || l.last.project != project {
		*l.last = freshness{project, true, l.ledger.Fresh(project, l.now)}
	}
	return l.last.err
}
