// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta1"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"

	"github.com/callguard/callguard/test/trial"
)

// lists are answers of every shape.
func lists() map[string]*custom_metrics.MetricValueList {
	item := func(kind, namespace, name, metric string, value int64, selector *metav1.LabelSelector) custom_metrics.MetricValue {
		return custom_metrics.MetricValue{
			DescribedObject: custom_metrics.ObjectReference{Kind: kind, APIVersion: "v1", Namespace: namespace, Name: name},
			Metric:          custom_metrics.MetricIdentifier{Name: metric, Selector: selector},
			Timestamp:       metav1.NewTime(time.Date(2026, 3, 29, 1, 59, 59, 999, time.FixedZone("CET", 3600))),
			Value:           *resource.NewQuantity(value, resource.DecimalSI),
		}
	}
	serving := &metav1.LabelSelector{MatchLabels: map[string]string{"state": "serving"}}
	other := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "state", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"draining", "released"}}}}
	return map[string]*custom_metrics.MetricValueList{
		"Empty":     {Items: []custom_metrics.MetricValue{}},
		"One":       {Items: []custom_metrics.MetricValue{item("Pod", "voice", "agent-1", ActiveCalls, 3, nil)}},
		"NoSpace":   {Items: []custom_metrics.MetricValue{item("Node", "", "node-1.example.com", ActiveCalls, 0, nil)}},
		"Several":   {Items: []custom_metrics.MetricValue{item("Pod", "voice", "a", BusyPods, 1, serving), item("Pod", "voice", "b", BusyPods, 2, serving), item("Pod", "voice", "c", BusyPods, 3, other)}},
		"Thousands": {Items: []custom_metrics.MetricValue{item("Namespace", "", "voice", ActiveCalls, 25_000, nil), item("Namespace", "", "x", ActiveCalls, 1_234_567, nil)}},
		"Odd":       {Items: []custom_metrics.MetricValue{item("Pod", `"`, "<é\u2028\n\x01\\>&", "\x7f", 1, nil)}},
		"Metadata":  {ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "more"}, Items: []custom_metrics.MetricValue{item("Pod", "voice", "a", ActiveCalls, 1, nil)}},
	}
}

// TestEncodedAsTheLibrary: in every version and encoding a list is, to the byte, what API
// machinery encodes, even where callguard encodes it itself.
func TestEncodedAsTheLibrary(t *testing.T) {
	for _, info := range apiserver.Codecs.SupportedMediaTypes() {
		for _, version := range []schema.GroupVersion{v1beta1.SchemeGroupVersion, v1beta2.SchemeGroupVersion} {
			for name, list := range lists() {
				t.Run(info.MediaType+"/"+version.Version+"/"+name, func(t *testing.T) {
					encoder := apiserver.Codecs.EncoderForVersion(info.Serializer, version)
					var want, got bytes.Buffer
					wantErr, gotErr := encoder.Encode(list, &want), encoder.Encode(encoded{list, jsonIdentifier(), &sync.Pool{}}, &got)
					if (wantErr == nil) != (gotErr == nil) { // YAML has no control characters
						t.Fatalf("the library: %v; by itself: %v", wantErr, gotErr)
					}
					if diff := cmp.Diff(want.String(), got.String()); diff != "" {
						t.Errorf("-library, +by itself:\n%s", diff)
					}
				})
			}
		}
	}
}

// BenchmarkAnswer collects and encodes what is known about 5,000 pods, as autoscalers and
// people read it. For comparison it runs JSON in the library, and the library's encoding
// alone.
func BenchmarkAnswer(b *testing.B) {
	p := among(4995)
	list := func() *custom_metrics.MetricValueList {
		found, err := p.GetMetricBySelector(b.Context(), "voice", labels.Everything(), info("pods", ActiveCalls), labels.Everything())
		if err != nil {
			b.Fatal(err)
		}
		return found
	}
	answer := func(mediaType string, prepared *custom_metrics.MetricValueList, itself bool) func(*testing.B) {
		media, _ := runtime.SerializerInfoForMediaType(apiserver.Codecs.SupportedMediaTypes(), mediaType)
		encoder := apiserver.Codecs.EncoderForVersion(media.Serializer, v1beta2.SchemeGroupVersion)
		return func(b *testing.B) {
			b.ReportAllocs()
			var out bytes.Buffer
			report := trial.CPU(b)
			for b.Loop() {
				found := prepared
				if found == nil {
					found = list()
				}
				var object runtime.Object = found
				if itself {
					object = encoded{found, jsonIdentifier(), &sync.Pool{}}
				}
				out.Reset()
				if err := encoder.Encode(object, &out); err != nil {
					b.Fatal(err)
				}
			}
			report()
		}
	}
	b.Run("JSON", answer(runtime.ContentTypeJSON, nil, true))
	b.Run("JSONByTheLibrary", answer(runtime.ContentTypeJSON, nil, false))
	b.Run("Protobuf", answer(runtime.ContentTypeProtobuf, nil, false))
	b.Run("EncodeJSON", answer(runtime.ContentTypeJSON, list(), false))
	b.Run("EncodeProtobuf", answer(runtime.ContentTypeProtobuf, list(), false))
}
