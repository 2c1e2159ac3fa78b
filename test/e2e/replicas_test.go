// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/test/lab"
	"github.com/callguard/callguard/test/trial"
)

// TestReplicasAreCounted: an adapter with the chart's rights knows how many replicas the
// API server lists. It runs outside the cluster, so it also counts itself.
func TestReplicasAreCounted(t *testing.T) {
	t.Parallel()
	api := stage.Client.DiscoveryV1().EndpointSlices(lab.AdapterNamespace)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "counted", Labels: map[string]string{discoveryv1.LabelServiceName: "counted"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"198.51.100.81"}}},
	}
	slice, err := api.Create(t.Context(), slice, metav1.CreateOptions{})
	trial.Must(t, err)
	a := adapter(t, "--replicas=1", "--replicas-service="+lab.AdapterNamespace+"/counted")
	counts := func(want int, when string) {
		t.Helper()
		eventually(t, 10*time.Second, when, func() (bool, error) {
			page := adapterPath(t, a, "/metrics")
			if !strings.Contains(page, fmt.Sprintf("\ncallguard_adapter_replicas %d\n", want)) {
				return false, fmt.Errorf("it says %q, want %d", regexp.MustCompile("\ncallguard_adapter_replicas .*").FindString(page), want)
			}
			return true, nil
		})
	}
	counts(2, "one other is listed")
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"198.51.100.82"}})
	_, err = api.Update(t.Context(), slice, metav1.UpdateOptions{})
	trial.Must(t, err)
	counts(3, "another has come")
	trial.Must(t, api.Delete(t.Context(), slice.Name, metav1.DeleteOptions{}))
	counts(1, "none is listed")
}
