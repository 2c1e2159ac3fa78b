// SPDX-License-Identifier: Apache-2.0

// Package keda answers KEDA, as an external scaler, with the metrics of package metricsapi, for who scales by ScaledObjects
// and wants no custom metrics, or wants to scale to zero.
//
// It counts nothing itself, asks neither LiveKit nor the Kubernetes API, and keeps nothing. What is unknown is an error, never
// zero: KEDA then leaves the replicas, or takes the fallback of the ScaledObject. Who may ask is who has a certificate of an
// authority for KEDA: KEDA says for which namespace it asks, and nobody else may say so.
package keda

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/keda/externalscaler"
	"github.com/callguard/callguard/pkg/metricsapi"
)

// Metrics is what is known of calls: metricsapi.Provider.
type Metrics interface {
	GetMetricByName(ctx context.Context, name types.NamespacedName, info provider.CustomMetricInfo, selector labels.Selector) (*custom_metrics.MetricValue, error)
}

// scaler implements KEDA's protocol.
type scaler struct {
	externalscaler.UnimplementedExternalScalerServer

	metrics Metrics
	synced  func() bool
	every   time.Duration // how often a stream looks
	streams chan struct{} // a place for each stream
	ending  <-chan struct{}
}

// GetMetricSpec names the metric of a trigger and its target. It needs no number, so KEDA can make its
// HorizontalPodAutoscaler while nothing is known.
func (s *scaler) GetMetricSpec(_ context.Context, ref *externalscaler.ScaledObjectRef) (*externalscaler.GetMetricSpecResponse, error) {
	t, err := s.read(ref)
	if err != nil {
		return nil, err
	}
	return &externalscaler.GetMetricSpecResponse{MetricSpecs: []*externalscaler.MetricSpec{
		{MetricName: t.metric, TargetSize: int64(t.target), TargetSizeFloat: t.target},
	}}, nil
}

// GetMetrics returns the metric of a trigger.
func (s *scaler) GetMetrics(ctx context.Context, request *externalscaler.GetMetricsRequest) (*externalscaler.GetMetricsResponse, error) {
	t, err := s.read(request.GetScaledObjectRef())
	if err != nil {
		return nil, err
	}
	n, err := s.number(ctx, t, t.metric)
	if err != nil {
		return nil, err
	}
	return &externalscaler.GetMetricsResponse{MetricValues: []*externalscaler.MetricValue{
		{MetricName: request.GetMetricName(), MetricValue: n, MetricValueFloat: float64(n)},
	}}, nil
}

// IsActive reports whether a workload holds a call, or one waits for it.
func (s *scaler) IsActive(ctx context.Context, ref *externalscaler.ScaledObjectRef) (*externalscaler.IsActiveResponse, error) {
	t, err := s.read(ref)
	if err != nil {
		return nil, err
	}
	active, err := s.active(ctx, t)
	if err != nil {
		return nil, err
	}
	return &externalscaler.IsActiveResponse{Result: active}, nil
}

// StreamIsActive tells KEDA at once when a workload becomes active. It never tells that it has become idle: KEDA asks IsActive
// for that, of all triggers together, and some versions of it would go by one stream alone.
func (s *scaler) StreamIsActive(ref *externalscaler.ScaledObjectRef, stream grpc.ServerStreamingServer[externalscaler.IsActiveResponse]) error {
	t, err := s.read(ref)
	if err != nil {
		return err
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d ScaledObjects listen already; use a trigger of type external, which asks now and then", cap(s.streams))
	}
	look := time.NewTicker(s.every)
	defer look.Stop()
	for was := false; ; {
		active, err := s.active(stream.Context(), t)
		if err == nil && active && !was {
			if err := stream.Send(&externalscaler.IsActiveResponse{Result: true}); err != nil {
				return err
			}
		}
		if err == nil { // what is unknown changes nothing
			was = active
		}
		select {
		case <-look.C:
		case <-s.ending:
			return nil // KEDA comes back sooner than after an error
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// active reports whether a workload holds a call, or one waits for it, whatever metric a trigger is about: a workload without
// calls may have some that wait, and one for which none waits may hold some. What may be so is an error.
func (s *scaler) active(ctx context.Context, t trigger) (bool, error) {
	var unknown error
	// In this order a call that is answered meanwhile is seen in one of them.
	for _, metric := range []string{metricsapi.WaitingCalls, metricsapi.ActiveCalls} {
		n, err := s.number(ctx, t, metric)
		if err != nil && unknown == nil {
			unknown = err
		}
		if err == nil && n > 0 {
			return true, nil
		}
	}
	if unknown != nil {
		return false, unknown
	}
	// The sum leaves out pods whose calls nobody knows, while they are few; these count as busy.
	busy, err := s.number(ctx, t, metricsapi.BusyPods)
	if err == nil && busy > 0 {
		err = status.Errorf(codes.Unavailable, "it is not known whether %s holds calls: those of %d of its pods are unknown", t.workload, busy)
	}
	return false, err
}

// number is a metric of a trigger's workload.
func (s *scaler) number(ctx context.Context, t trigger, metric string) (int64, error) {
	if !s.synced() {
		return 0, status.Error(codes.Unavailable, "the guarded pods are still being read")
	}
	value, err := s.metrics.GetMetricByName(ctx, t.workload, provider.CustomMetricInfo{GroupResource: t.resource, Namespaced: true, Metric: metric}, labels.Everything())
	if err != nil {
		return 0, status.Error(code(err), call.Plain(err.Error(), call.MaxText))
	}
	return value.Value.Value(), nil
}

func (*scaler) read(ref *externalscaler.ScaledObjectRef) (trigger, error) {
	t, err := read(ref)
	if err != nil {
		return t, status.Error(codes.InvalidArgument, call.Plain(err.Error(), call.MaxText))
	}
	return t, nil
}

// code is that of an error of the metrics API.
func code(err error) codes.Code {
	switch {
	case apierrors.IsNotFound(err):
		return codes.NotFound
	case apierrors.IsServiceUnavailable(err):
		return codes.Unavailable
	default:
		return codes.Internal
	}
}
