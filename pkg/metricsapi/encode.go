// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

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

	json    runtime.Identifier
	buffers *sync.Pool // of *[]byte
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
		b, _ := e.buffers.Get().(*[]byte)
		if b == nil {
			b = new([]byte)
		}
		defer e.buffers.Put(b)
		return writeJSON(e.MetricValueList, b, w)
	}
	return encode(e.MetricValueList, w)
}

// GetObject implements runtime.CacheableObject.
func (e encoded) GetObject() runtime.Object { return e.MetricValueList }

// GetObjectKind implements runtime.Object.
func (e encoded) GetObjectKind() schema.ObjectKind { return e.MetricValueList.GetObjectKind() }

// DeepCopyObject implements runtime.Object.
func (e encoded) DeepCopyObject() runtime.Object {
	return encoded{e.MetricValueList.DeepCopy(), e.json, e.buffers}
}

// perItem is about the size of one item in JSON, in bytes.
const perItem = 220

// writeJSON writes a list in one piece, which it builds in a buffer.
func writeJSON(list *custom_metrics.MetricValueList, buffer *[]byte, w io.Writer) error {
	meta, err := json.Marshal(list.ListMeta)
	if err != nil {
		return fmt.Errorf("cannot encode a list of metrics: %w", err)
	}
	b := slices.Grow((*buffer)[:0], perItem*(1+len(list.Items)))
	b = append(b, `{"kind":"`+listKind+`","apiVersion":"`+v1beta2.GroupName+`/v1beta2","metadata":`...)
	b = append(b, meta...)
	b = append(b, `,"items":[`...)
	var same repeated
	for i := range list.Items {
		item := &list.Items[i]
		if i > 0 {
			b = append(b, ',')
		}
		if err := same.encode(item); err != nil {
			return fmt.Errorf("cannot encode a list of metrics: %w", err)
		}
		b = appendText(append(b, same.before...), item.DescribedObject.Name)
		b = append(append(append(b, same.between...), same.time...), `","value":"`...)
		if n := item.Value.Value(); 0 <= n && n < 1000 { // a larger one has a suffix
			b = strconv.AppendInt(b, n, 10)
		} else {
			b = append(b, item.Value.String()...)
		}
		b = append(b, `"}`...)
	}
	b = append(b, "]}\n"...)
	*buffer = b
	_, err = w.Write(b)
	return err
}

// repeated caches the JSON of what most items of a list have in common with the one before.
type repeated struct {
	object custom_metrics.ObjectReference // without its name
	metric custom_metrics.MetricIdentifier
	at     int64 // the time, in seconds

	before, between []byte // the text before an object's name, and between that and the time
	time            []byte
}

// encode makes the texts right for an item.
func (r *repeated) encode(item *custom_metrics.MetricValue) error {
	if at := item.Timestamp.Unix(); r.time == nil || at != r.at {
		r.at, r.time = at, item.Timestamp.UTC().AppendFormat(r.time[:0], time.RFC3339)
	}
	object := item.DescribedObject
	object.Name = ""
	if r.before != nil && object == r.object && item.Metric == r.metric {
		return nil
	}
	selector, err := json.Marshal(item.Metric.Selector)
	if err != nil {
		return err
	}
	r.object, r.metric = object, item.Metric
	r.before = appendText([]byte(`{"describedObject":{"kind":`), object.Kind)
	if object.Namespace != "" {
		r.before = appendText(append(r.before, `,"namespace":`...), object.Namespace)
	}
	r.before = append(r.before, `,"name":`...)
	r.between = appendText([]byte(`,"apiVersion":`), object.APIVersion)
	r.between = appendText(append(r.between, `},"metric":{"name":`...), item.Metric.Name)
	r.between = append(append(r.between, `,"selector":`...), selector...)
	r.between = append(r.between, `},"timestamp":"`...)
	return nil
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
