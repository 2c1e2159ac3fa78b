// SPDX-License-Identifier: Apache-2.0

package leader

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
)

// TestRecordServer: the first LiveKit of the default project counts as that of all pods,
// another one is dated by the API server, and only the guard that leads says so.
func TestRecordServer(t *testing.T) {
	when := metav1.NewTime(noon())
	lease := func(annotations map[string]string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
			Namespace: "callguard-system", Name: LeaseName, Annotations: annotations, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: serverManager, Time: &when}},
		}}
	}
	cases := map[string]struct {
		reason string
		is     *coordinationv1.Lease
		leads  bool
		want   time.Time
		writes int
		fails  bool
	}{
		"First":        {reason: "There was none before.", is: lease(nil), leads: true, writes: 1},
		"Same":         {reason: "Nothing is to be written.", is: lease(map[string]string{call.ServerAnnotation: "https://b"}), leads: true},
		"Another":      {reason: "It was another until now.", is: lease(map[string]string{call.ServerAnnotation: "https://a"}), leads: true, want: noon(), writes: 1},
		"AnotherOnce":  {reason: "It was another before.", is: lease(map[string]string{call.ServerAnnotation: "https://b", call.FormerServerAnnotation: "https://a"}), want: noon()},
		"StandsBy":     {reason: "The guard that leads has the old one still.", is: lease(map[string]string{call.ServerAnnotation: "https://a"}), fails: true},
		"NobodyHasYet": {reason: "Nor is it the first to say so.", is: lease(nil), fails: true},
		"NoLease":      {reason: "A guard without an election makes it.", is: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, leads: true, writes: 1},
		"NoLeaseYet":   {reason: "It is not for others to make it.", is: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, fails: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewSimpleClientset(tc.is)
			writes := 0
			client.PrependReactor("patch", "leases", func(clienttesting.Action) (bool, runtime.Object, error) { writes++; return false, nil, nil })
			got, err := RecordServer(t.Context(), client, "callguard-system", "https://b", func() bool { return tc.leads })
			if (err != nil) != tc.fails || !got.Equal(tc.want) || writes != tc.writes {
				t.Errorf("%s got %v, %v with %d writes; want %v with %d, failing %t", tc.reason, got, err, writes, tc.want, tc.writes, tc.fails)
			}
		})
	}
}
