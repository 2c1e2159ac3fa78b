// SPDX-License-Identifier: Apache-2.0

package externalscaler

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestWire: the messages are as in pkg/scalers/externalscaler/externalscaler.proto of kedacore/keda 2.20. KEDA
// also requests StreamMetricSpec, and works without it.
func TestWire(t *testing.T) {
	t.Parallel()
	want := []string{
		"externalscaler.ScaledObjectRef: 1 string, 2 string, 3 map[string]string",
		"externalscaler.IsActiveResponse: 1 bool",
		"externalscaler.GetMetricSpecResponse: 1 []externalscaler.MetricSpec",
		"externalscaler.MetricSpec: 1 string, 2 int64, 3 double",
		"externalscaler.GetMetricsRequest: 1 externalscaler.ScaledObjectRef, 2 string",
		"externalscaler.GetMetricsResponse: 1 []externalscaler.MetricValue",
		"externalscaler.MetricValue: 1 string, 2 int64, 3 double",
		"externalscaler.ExternalScaler.IsActive: externalscaler.ScaledObjectRef, externalscaler.IsActiveResponse",
		"externalscaler.ExternalScaler.StreamIsActive: externalscaler.ScaledObjectRef, stream externalscaler.IsActiveResponse",
		"externalscaler.ExternalScaler.GetMetricSpec: externalscaler.ScaledObjectRef, externalscaler.GetMetricSpecResponse",
		"externalscaler.ExternalScaler.GetMetrics: externalscaler.GetMetricsRequest, externalscaler.GetMetricsResponse",
	}
	var got []string
	messages := File_externalscaler_proto.Messages()
	for i := range messages.Len() {
		line := string(messages.Get(i).FullName()) + ":"
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			if j > 0 {
				line += ","
			}
			line += fmt.Sprintf(" %d %s", fields.Get(j).Number(), typeOf(fields.Get(j)))
		}
		got = append(got, line)
	}
	methods := File_externalscaler_proto.Services().Get(0).Methods()
	for i := range methods.Len() {
		m, stream := methods.Get(i), ""
		if m.IsStreamingServer() {
			stream = "stream "
		}
		got = append(got, fmt.Sprintf("%s: %s, %s%s", m.FullName(), m.Input().FullName(), stream, m.Output().FullName()))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("KEDA would not understand (-want +got):\n%s", diff)
	}
}

func typeOf(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return fmt.Sprintf("map[%s]%s", field.MapKey().Kind(), field.MapValue().Kind())
	case field.IsList():
		return "[]" + string(field.Message().FullName())
	case field.Message() != nil:
		return string(field.Message().FullName())
	default:
		return field.Kind().String()
	}
}
