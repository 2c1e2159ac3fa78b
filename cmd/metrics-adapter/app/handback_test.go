// SPDX-License-Identifier: Apache-2.0

package app

import (
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"

	"github.com/callguard/callguard/cmd/internal/programtest"
	"github.com/callguard/callguard/pkg/apiservice"
	"github.com/callguard/callguard/pkg/call"
)

// takenAPI is v1beta1, taken from monitoring/other.
func takenAPI(t *testing.T) *apiregistrationv1.APIService {
	t.Helper()
	s := &apiregistrationv1.APIService{}
	s.Name = apiservice.Names()[0]
	s.Spec.Service = &apiregistrationv1.ServiceReference{Namespace: "monitoring", Name: "other"}
	if err := apiservice.Take(s, apiregistrationv1.ServiceReference{Namespace: "callguard-system", Name: call.AdapterName}, []byte("ours")); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestHandBackProvesTheUninstall runs it as an applied manifest does, and as an uninstall
// does.
func TestHandBackProvesTheUninstall(t *testing.T) {
	t.Parallel()
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "callguard-system", Name: call.AdapterName}}
	leash := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: leashName}}
	leaving := deployment.DeepCopy()
	leaving.DeletionTimestamp, leaving.Finalizers = &metav1.Time{Time: time.Now()}, []string{"foregroundDeletion"}
	for name, tc := range map[string]struct {
		reason string
		there  []runtime.Object
		args   []string
		want   string
		owner  string
	}{
		"Uninstalled":       {"Nothing of callguard is there.", nil, []string{"--after-uninstall"}, "v1beta1.custom.metrics.k8s.io is given back to monitoring/other", "monitoring/other"},
		"Running":           {"An object among others is no uninstall.", []runtime.Object{deployment}, []string{"--after-uninstall"}, "Deployment callguard-system/metrics-adapter is there: nothing is given back", "callguard-system/metrics-adapter"},
		"NotYetRunning":     {"They come one after the other.", []runtime.Object{leash}, []string{"--after-uninstall"}, "callguard-adapter-leash is there: nothing is given back", "callguard-system/metrics-adapter"},
		"StillLeaving":      {"What never goes is waited for only so long.", []runtime.Object{leaving}, []string{"--after-uninstall"}, "what is being deleted is there: nothing is given back", "callguard-system/metrics-adapter"},
		"ByAnAdministrator": {"Who asks for it without proof means it.", []runtime.Object{deployment, leash}, nil, "is given back", "monitoring/other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHandBack()
			if err := h.Flags().Parse(append(tc.args, "--compose-service=monitoring/other:443")); err != nil {
				t.Fatal(err)
			}
			h.sure, h.timeout = 50*time.Millisecond, 2*time.Second
			services := aggregator.NewSimpleClientset(takenAPI(t)).ApiregistrationV1()
			var out strings.Builder
			if err := h.run(t.Context(), fake.NewClientset(tc.there...), services, &out); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("says %q; want %q. %s", out.String(), tc.want, tc.reason)
			}
			s, err := services.APIServices().Get(t.Context(), apiservice.Names()[0], metav1.GetOptions{})
			if err != nil || apiservice.Owner(s) != tc.owner {
				t.Errorf("the API is %s's, %v; want %s. %s", apiservice.Owner(s), err, tc.owner, tc.reason)
			}
		})
	}
}

func TestValidateHandBack(t *testing.T) {
	for name, tc := range map[string]struct {
		reason     string
		args, want []string
	}{
		"Whole":  {reason: "Both Services are named.", args: []string{"--compose-service=a/b"}},
		"Nobody": {reason: "Somebody has to get it.", want: []string{`--compose-service is ""; use namespace/name such as monitoring/prometheus-adapter`}},
		"Both":   {reason: "All mistakes at once.", args: []string{"--service=x", "--compose-service=a/b:0"}, want: []string{`--service is "x"`, `--compose-service is "a/b:0"`}},
	} {
		t.Run(name, func(t *testing.T) { programtest.Validate(t, tc.reason, newHandBack(), tc.args, tc.want) })
	}
}

func TestValidateCompose(t *testing.T) {
	for name, tc := range map[string]struct {
		reason     string
		args, want []string
	}{
		"Insecure":  {reason: "Explicitly, and only so.", args: []string{"--compose-service=a/b:6443", "--compose-insecure"}},
		"Untrusted": {reason: "No certificate is trusted by default.", args: []string{"--compose-service=a/b"}, want: []string{`--compose-ca-file is ""; use a file with the authority of that adapter, or --compose-insecure`}},
		"Both":      {reason: "It is ambiguous which of the two applies.", args: []string{"--compose-service=a/b", "--compose-insecure", "--compose-ca-file=/x"}, want: []string{`--compose-insecure is "true"; use either this or --compose-ca-file`}},
		"NoFile":    {reason: "A file has to be there.", args: []string{"--compose-service=a/b", "--compose-ca-file=/none"}, want: []string{"--compose-ca-file"}},
		"ForNobody": {reason: "A setting of nothing is a mistake.", args: []string{"--compose-insecure"}, want: []string{`--compose-service is ""`}},
		"OwnCertificate": {reason: "Whoever brings a certificate has to name its authority.", args: []string{"--compose-service=a/b", "--compose-insecure", "--tls-cert-file=/dev/null", "--tls-private-key-file=/dev/null"},
			want: []string{`--compose-serving-ca-file is ""`}},
		"AllAtOnce": {reason: "All mistakes at once.", args: []string{"--compose-service=a", "--compose-insecure", "--compose-address=x", "--compose-timeout=1ms", "--compose-concurrency=17"},
			want: []string{`--compose-service is "a"; use namespace/name`, `--compose-address is "x"; use host:port`, `--compose-timeout is "1ms"; use 100ms or more`, `--compose-concurrency is "17"; use 1 to 16`}},
	} {
		t.Run(name, func(t *testing.T) { programtest.Validate(t, tc.reason, NewOptions(), tc.args, tc.want) })
	}
}
