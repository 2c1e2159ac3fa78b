// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
)

// encoded is a list that encodes itself as JSON of v1beta2, which kubectl and most clients
// request, without a conversion and without reflection. Other encodings use the default
// encoder; protobuf takes half as long anyway. CacheableObject is API machinery's own hook
// for that.
type encoded struct {
	*custom_metrics.MetricValueList

	json runtime.Identifier
}

var _ runtime.CacheableObject = encoded{}

// jsonIdentifier returns the identifier of the encoder for JSON of v1beta2.
func jsonIdentifier() runtime.Identifier {
	info, _ := runtime.SerializerInfoForMediaType(apiserver.Codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	return apiserver.Codecs.EncoderForVersion(info.Serializer, v1beta2.SchemeGroupVersion).Identifier()
}

// CacheEncode implements runtime.CacheableObject.
func (e encoded) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	if id == e.json {
		return writeJSON(e.MetricValueList, w)
	}
	return encode(e.MetricValueList, w)
}

// GetObject implements runtime.CacheableObject.
func (e encoded) GetObject() runtime.Object { return e.MetricValueList }

// GetObjectKind implements runtime.Object.
func (e encoded) GetObjectKind() schema.ObjectKind { return e.MetricValueList.GetObjectKind() }

// DeepCopyObject implements runtime.Object.
func (e encoded) DeepCopyObject() runtime.Object {
	return encoded{e.MetricValueList.DeepCopy(), e.json}
}

// perItem is about the size of one item in JSON, in bytes.
const perItem = 220

func writeJSON(list *custom_metrics.MetricValueList, w io.Writer) error {
	meta, err := json.Marshal(list.ListMeta)
	if err != nil {
		return fmt.Errorf("cannot encode a list of metrics: %w", err)
	}
	b := make([]byte, 0, perItem*(1+len(list.Items)))
	b = append(b, `{"kind":"`+listKind+`","apiVersion":"`+v1beta2.GroupName+`/v1beta2","metadata":`...)
	b = append(b, meta...)
	b = append(b, `,"items":[`...)
	var selector metricSelector
	for i := range list.Items {
		item := &list.Items[i]
		if i > 0 {
			b = append(b, ',')
		}
		d := &item.DescribedObject
		b = appendText(append(b, `{"describedObject":{"kind":`...), d.Kind)
		if d.Namespace != "" {
			b = appendText(append(b, `,"namespace":`...), d.Namespace)
		}
		b = appendText(append(b, `,"name":`...), d.Name)
		b = appendText(append(b, `,"apiVersion":`...), d.APIVersion)
		b = appendText(append(b, `},"metric":{"name":`...), item.Metric.Name)
		b = append(b, `,"selector":`...)
		text, err := selector.json(item.Metric.Selector)
		if err != nil {
			return fmt.Errorf("cannot encode a list of metrics: %w", err)
		}
		b = append(b, text...)
		b = append(b, `},"timestamp":"`...)
		b = item.Timestamp.UTC().AppendFormat(b, time.RFC3339)
		b = append(b, `","value":"`...)
		if n := item.Value.Value(); 0 <= n && n < 1000 { // a larger one has a suffix
			b = strconv.AppendInt(b, n, 10)
		} else {
			b = append(b, item.Value.String()...)
		}
		b = append(b, `"}`...)
	}
	b = append(b, "]}\n"...)
	_, err = w.Write(b)
	return err
}

// metricSelector caches the JSON of the last selector; all items of a list have the same
// one.
type metricSelector struct {
	of   *metav1.LabelSelector
	text []byte
}

func (s *metricSelector) json(of *metav1.LabelSelector) (text []byte, err error) {
	if s.text == nil || s.of != of {
		s.of = of
		s.text, err = json.Marshal(of)
	}
	return s.text, err
}

// appendText appends a JSON string. Kubernetes' names need no escapes; for other texts it
// uses encoding/json.
func appendText(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(text) // a string can always be encoded
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}
