// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
)

// ScaledObject is a ScaledObject of a Deployment, with triggers of type external and external-push.
type ScaledObject struct {
	Namespace, Name, Deployment string
	// Min and Max are minReplicaCount and maxReplicaCount.
	Min, Max int32
	// Polling and Cooldown are pollingInterval and cooldownPeriod.
	Polling, Cooldown time.Duration
	// Fallback has behavior currentReplicasIfHigher; nil for none.
	Fallback *Fallback
	Behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
	Triggers []Trigger
}

// Fallback is the minimum number of replicas once a metric has failed more than this many times in a row.
type Fallback struct{ Threshold, Replicas int32 }

// Trigger is one trigger of a ScaledObject.
type Trigger struct {
	// Push makes it one of type external-push.
	Push       bool
	MetricType autoscalingv2.MetricTargetType
	Metadata   map[string]string
}

// KEDA simulates KEDA's operator, and serves external.metrics.k8s.io as its metrics server does. It creates the
// HorizontalPodAutoscaler of a ScaledObject, which scales between one replica and the maximum. It sends the same requests as
// KEDA 2.21, and handles the answers in the same way.
type KEDA struct {
	Client kubernetes.Interface
	Scaler externalscaler.ExternalScalerClient

	mu      sync.Mutex
	objects map[string]*scaled // by namespace/name
}

// scaled is a ScaledObject that is followed.
type scaled struct {
	ScaledObject

	// scaling is held for each step (scalingMutex in pkg/scaling/scale_handler.go).
	scaling sync.Mutex

	mu       sync.Mutex
	active   time.Time // when it was last seen active; zero for never (status.lastActiveTime)
	failures map[string]int32
	told     Told
}

// Told counts what a scaler reported about a ScaledObject: how often it was active or idle when asked, how often that was
// unknown, with the last error, and how often the scaler pushed that it is active.
type Told struct {
	Active, Idle, Failed, Pushed int
	Err                          error
}

// look is what KEDA knows about a ScaledObject when it decides.
type look struct {
	replicas int32 // of the Deployment
	active   bool  // by any trigger
	failed   bool  // by any trigger
	cooled   bool  // cooldownPeriod has passed since it was last active, or it never was
}

// scaleStep is one of KEDA's decisions.
type scaleStep struct {
	when   string
	is     func(ScaledObject, look) bool
	to     func(ScaledObject) int32 // replicas; nil to leave them
	source string                   // in kedacore/keda, pkg/scaling/executor/scale_scaledobjects.go
}

// scaleSteps are tried in order, and the first that applies decides. There is no idleReplicaCount, and nothing is paused.
func scaleSteps() []scaleStep {
	return []scaleStep{
		{"active, and there is none", func(_ ScaledObject, l look) bool { return l.active && l.replicas == 0 },
			func(o ScaledObject) int32 { return max(1, o.Min) }, "RequestScale, scaleFromZeroOrIdle"},
		{"active", func(_ ScaledObject, l look) bool { return l.active }, nil, "RequestScale: the HorizontalPodAutoscaler scales"},
		{"an error, and a fallback with replicas", func(o ScaledObject, l look) bool {
			return l.failed && o.Fallback != nil && o.Fallback.Replicas != 0
		}, nil, "RequestScale: isError && Fallback.Replicas != 0"},
		{"an error, and no fallback", func(o ScaledObject, l look) bool { return l.failed && o.Fallback == nil }, nil, "RequestScale: isError && Fallback == nil"},
		{"idle, and still cooling down", func(o ScaledObject, l look) bool { return l.replicas > 0 && o.Min == 0 && !l.cooled }, nil, "scaleToZeroOrIdle: cooldownPeriod"},
		{"idle, or an error with a fallback of no replicas", func(o ScaledObject, l look) bool { return l.replicas > 0 && o.Min == 0 },
			func(ScaledObject) int32 { return 0 }, "scaleToZeroOrIdle"},
		{"idle, and fewer than the least", func(o ScaledObject, l look) bool { return l.replicas < o.Min },
			func(o ScaledObject) int32 { return o.Min }, "RequestScale: currentReplicas < minReplicas"},
		{"anything else", func(ScaledObject, look) bool { return true }, nil, "RequestScale: default"},
	}
}

func stepOf(o ScaledObject, l look) scaleStep {
	for _, s := range scaleSteps() {
		if s.is(o, l) {
			return s
		}
	}
	panic("the last step is always so")
}

// Follow scales a ScaledObject until ctx ends.
func (k *KEDA) Follow(ctx context.Context, object ScaledObject) error {
	s := &scaled{ScaledObject: object, failures: map[string]int32{}}
	k.mu.Lock()
	if k.objects == nil {
		k.objects = map[string]*scaled{}
	}
	k.objects[object.Namespace+"/"+object.Name] = s
	k.mu.Unlock()
	if err := k.makeAutoscaler(ctx, s); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // startScaleLoop in pkg/scaling/scale_handler.go
		for {
			if err := k.poll(ctx, s); err != nil && ctx.Err() == nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(s.Polling):
			}
		}
	})
	for i, t := range s.Triggers {
		if t.Push {
			g.Go(func() error { return k.listen(ctx, s, i) })
		}
	}
	return g.Wait()
}

// Told returns the counts of a ScaledObject so far.
func (k *KEDA) Told(namespace, name string) Told {
	k.mu.Lock()
	s := k.objects[namespace+"/"+name]
	k.mu.Unlock()
	if s == nil {
		return Told{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// ref is what a scaler receives about a trigger (NewExternalScaler in pkg/scalers/external_scaler.go).
func (s *scaled) ref(trigger int) *externalscaler.ScaledObjectRef {
	return &externalscaler.ScaledObjectRef{Name: s.Name, Namespace: s.Namespace, ScalerMetadata: maps.Clone(s.Triggers[trigger].Metadata)}
}

// specs returns the metrics of a trigger for a HorizontalPodAutoscaler (buildMetricSpecs in pkg/scalers/external_scaler.go).
func (k *KEDA) specs(ctx context.Context, s *scaled, trigger int) ([]autoscalingv2.MetricSpec, error) {
	answer, err := k.Scaler.GetMetricSpec(ctx, s.ref(trigger))
	if err != nil {
		return nil, err
	}
	var specs []autoscalingv2.MetricSpec
	for _, m := range answer.GetMetricSpecs() {
		size := resource.NewMilliQuantity(int64(m.GetTargetSizeFloat()*1000), resource.DecimalSI)
		if m.GetTargetSizeFloat() <= 0 {
			size = resource.NewQuantity(m.GetTargetSize(), resource.DecimalSI)
		}
		target := autoscalingv2.MetricTarget{Type: s.Triggers[trigger].MetricType, AverageValue: size}
		if target.Type == autoscalingv2.ValueMetricType {
			target.AverageValue, target.Value = nil, size
		}
		specs = append(specs, autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{
				Name:     fmt.Sprintf("s%d-%s", trigger, m.GetMetricName()),
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{scaledObjectLabel: s.Name}},
			},
			Target: target,
		}})
	}
	return specs, nil
}

const scaledObjectLabel = "scaledobject.keda.sh/name"

// makeAutoscaler creates the HorizontalPodAutoscaler (newHPAForScaledObject in controllers/keda/hpa.go).
func (k *KEDA) makeAutoscaler(ctx context.Context, s *scaled) error {
	var metrics []autoscalingv2.MetricSpec
	for i := range s.Triggers {
		specs, err := k.specs(ctx, s, i)
		if err != nil {
			return fmt.Errorf("no metrics for the HorizontalPodAutoscaler of ScaledObject %s: %w", s.Name, err)
		}
		metrics = append(metrics, specs...)
	}
	least := max(1, s.Min)
	_, err := k.Client.AutoscalingV2().HorizontalPodAutoscalers(s.Namespace).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: "keda-hpa-" + s.Name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: s.Deployment},
			MinReplicas:    &least, MaxReplicas: s.Max, Metrics: metrics, Behavior: s.Behavior,
		},
	}, metav1.CreateOptions{})
	return err
}

// poll asks every trigger, and makes a step (checkScalers in pkg/scaling/scale_handler.go).
func (k *KEDA) poll(ctx context.Context, s *scaled) error {
	s.scaling.Lock()
	defer s.scaling.Unlock()
	var l look
	for i := range s.Triggers { // getScaledObjectState
		specs, err := k.specs(ctx, s, i)
		if err != nil {
			return err // of what is known already when the HorizontalPodAutoscaler is made
		}
		for _, spec := range specs {
			_, active, err := k.metric(ctx, s, i, spec)
			l.active = l.active || active
			l.failed = l.failed || err != nil
			s.note(active, err)
		}
	}
	return k.step(ctx, s, l)
}

func (s *scaled) note(active bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.told.Failed++
		s.told.Err = err
	case active:
		s.told.Active++
	default:
		s.told.Idle++
	}
}

// metric asks a scaler for a metric and whether it is active (GetMetricsAndActivity in pkg/scalers/external_scaler.go), and
// replaces an error by the fallback (GetMetricsWithFallback in pkg/fallback/fallback.go).
func (k *KEDA) metric(ctx context.Context, s *scaled, trigger int, spec autoscalingv2.MetricSpec) (resource.Quantity, bool, error) {
	value, active, err := func() (float64, bool, error) {
		_, name, _ := strings.Cut(spec.External.Metric.Name, "-")
		answer, err := k.Scaler.GetMetrics(ctx, &externalscaler.GetMetricsRequest{ScaledObjectRef: s.ref(trigger), MetricName: name})
		if err != nil {
			return 0, false, err
		}
		values := answer.GetMetricValues()
		if len(values) != 1 {
			return 0, false, fmt.Errorf("%d values of one metric", len(values))
		}
		value := float64(values[0].GetMetricValue())
		if values[0].GetMetricValueFloat() > 0 {
			value = values[0].GetMetricValueFloat()
		}
		is, err := k.Scaler.IsActive(ctx, s.ref(trigger))
		return value, is.GetResult(), err
	}()
	s.mu.Lock()
	if err == nil {
		s.failures[spec.External.Metric.Name] = 0
	} else {
		s.failures[spec.External.Metric.Name]++
	}
	failures := s.failures[spec.External.Metric.Name]
	s.mu.Unlock()
	if err == nil {
		return *resource.NewMilliQuantity(int64(value*1000), resource.DecimalSI), active, nil
	}
	if s.Fallback == nil || failures <= s.Fallback.Threshold || spec.External.Target.AverageValue == nil {
		return resource.Quantity{}, false, err
	}
	d, failed := k.Client.AppsV1().Deployments(s.Namespace).GetScale(ctx, s.Deployment, metav1.GetOptions{})
	if failed != nil {
		return resource.Quantity{}, false, errors.Join(err, failed)
	}
	replicas := max(s.Fallback.Replicas, d.Spec.Replicas)
	return *resource.NewMilliQuantity(spec.External.Target.AverageValue.MilliValue()*int64(replicas), resource.DecimalSI), true, nil
}

// step applies scaleSteps.
func (k *KEDA) step(ctx context.Context, s *scaled, l look) error {
	d, err := k.Client.AppsV1().Deployments(s.Namespace).GetScale(ctx, s.Deployment, metav1.GetOptions{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	l.replicas, l.cooled = d.Spec.Replicas, s.active.IsZero() || time.Since(s.active) > s.Cooldown
	if l.active && (l.replicas == 0 || !l.failed) {
		s.active = time.Now()
	}
	s.mu.Unlock()
	step := stepOf(s.ScaledObject, l)
	if step.to == nil {
		return nil
	}
	d.Spec.Replicas = step.to(s.ScaledObject)
	_, err = k.Client.AppsV1().Deployments(s.Namespace).UpdateScale(ctx, s.Deployment, d, metav1.UpdateOptions{})
	return err
}

// listen makes a step when a scaler pushes that a trigger is active, and ignores that it is not (startPushScalers in
// pkg/scaling/scale_handler.go). After a stream it waits, and longer after each failed one (runStreamIsActive in
// pkg/scalers/external_scaler.go).
func (k *KEDA) listen(ctx context.Context, s *scaled, trigger int) error {
	const first = 2 * time.Second
	for pause := first; ; pause = min(2*pause, time.Minute) {
		stream, err := k.Scaler.StreamIsActive(ctx, s.ref(trigger))
		for err == nil {
			var answer *externalscaler.IsActiveResponse
			if answer, err = stream.Recv(); err != nil || !answer.GetResult() {
				continue
			}
			s.mu.Lock()
			s.told.Pushed++
			s.mu.Unlock()
			s.scaling.Lock()
			stepErr := k.step(ctx, s, look{active: true})
			s.scaling.Unlock()
			if stepErr != nil && ctx.Err() == nil {
				return stepErr
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// ServeHTTP answers an autoscaler (pkg/provider/provider.go, GetScaledObjectMetrics in pkg/scaling/scale_handler.go), and
// kube-apiserver's discovery. Unlike KEDA's, it does not authenticate the caller.
func (k *KEDA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const api = "/apis/external.metrics.k8s.io/v1beta1"
	path := strings.Split(strings.TrimPrefix(r.URL.Path, api+"/namespaces/"), "/")
	switch {
	case r.URL.Path == api:
		reply(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "external.metrics.k8s.io/v1beta1",
			APIResources: []metav1.APIResource{{Name: "externalmetrics", Namespaced: true, Kind: "ExternalMetricValueList", Verbs: metav1.Verbs{"get"}}},
		})
	case len(path) == 2:
		name := strings.TrimPrefix(r.URL.Query().Get("labelSelector"), scaledObjectLabel+"=")
		value, err := k.served(r.Context(), path[0], name, path[1])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, v1beta1.ExternalMetricValueList{
			TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: "external.metrics.k8s.io/v1beta1"},
			Items:    []v1beta1.ExternalMetricValue{{MetricName: path[1], Timestamp: metav1.Now(), Value: value}},
		})
	default:
		http.NotFound(w, r)
	}
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}

// served returns the value of a metric of a ScaledObject.
func (k *KEDA) served(ctx context.Context, namespace, name, metric string) (resource.Quantity, error) {
	k.mu.Lock()
	s := k.objects[namespace+"/"+name]
	k.mu.Unlock()
	if s == nil {
		return resource.Quantity{}, fmt.Errorf("there is no ScaledObject %s/%s", namespace, name)
	}
	for i := range s.Triggers {
		specs, err := k.specs(ctx, s, i)
		if err != nil {
			return resource.Quantity{}, err
		}
		for _, spec := range specs {
			if spec.External.Metric.Name == metric {
				value, _, err := k.metric(ctx, s, i, spec)
				return value, err
			}
		}
	}
	return resource.Quantity{}, fmt.Errorf("ScaledObject %s/%s has no metric %s", namespace, name, metric)
}
