// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	firstAPIService  = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.custom.metrics.k8s.io"
	secondAPIService = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta2.custom.metrics.k8s.io"
	nodeCalls        = "/apis/custom.metrics.k8s.io/v1beta2/nodes/*/active_calls"
	voiceCalls       = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/voice/pods/*/active_calls"
)

func apiService(service, available, message string) string {
	return fmt.Sprintf(`{"spec": {"service": {"namespace": "callguard-system", "name": %q}},
		"status": {"conditions": [{"type": "Available", "status": %q, "reason": "MissingEndpoints", "message": %q}]}}`, service, available, message)
}

// apiServer answers each path with the next of its answers, and the last one from then
// on. An unknown path is forbidden. It calls again when a path is requested again.
func apiServer(t *testing.T, answers map[string][]string, again func()) (kubeconfig string) {
	t.Helper()
	asked := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if asked[req.URL.Path] {
			again()
		}
		asked[req.URL.Path] = true
		w.Header().Set("Content-Type", "application/json")
		left := answers[req.URL.Path]
		if len(left) == 0 {
			left = []string{status(t, http.StatusForbidden, "you may not read "+req.URL.Path)}
		} else if len(left) > 1 {
			answers[req.URL.Path] = left[1:]
		}
		var s metav1.Status
		if err := json.Unmarshal([]byte(left[0]), &s); err == nil && s.Kind == "Status" {
			w.WriteHeader(int(s.Code))
		}
		_, _ = fmt.Fprint(w, left[0])
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"contexts": [{"name": "c", "context": {"cluster": "c"}}], "clusters": [{"name": "c", "cluster": {"server": %q}}]}`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

func status(t *testing.T, code int32, message string) string {
	t.Helper()
	text, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: code,
		Reason: map[int32]metav1.StatusReason{http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable}[code], Message: message,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCheck(t *testing.T) {
	ours := []string{apiService("metrics-adapter", "True", "")}
	served := func(path, list string) map[string][]string {
		return map[string][]string{firstAPIService: ours, secondAPIService: ours, path: {list}}
	}
	unavailable := apiService("metrics-adapter", "False", "endpoints for service/metrics-adapter have no addresses")
	const available = "APIService v1beta1.custom.metrics.k8s.io is available, by Service callguard-system/metrics-adapter\n" +
		"APIService v1beta2.custom.metrics.k8s.io is available, by Service callguard-system/metrics-adapter\n"

	cases := map[string]struct {
		reason  string
		args    []string
		answers map[string][]string
		want    string   // what it says
		wantErr []string // each must be in the error; an empty list means no error
	}{
		"Nodes": {
			reason:  "The sum over all nodes needs no workload to be there.",
			answers: served(nodeCalls, `{"items": [{"value": "3"}, {"value": "4"}]}`),
			want:    available + "active_calls of 2 nodes: 7 in all\n",
		},
		"Namespace": {
			reason:  "A namespace of one's own can be asked about.",
			args:    []string{"--namespace=voice"},
			answers: served(voiceCalls, `{"items": [{"value": "2"}]}`),
			want:    available + "active_calls of 1 guarded pods of namespace voice: 2 in all\n",
		},
		"Starting": {
			reason: "An adapter that has just been installed needs a moment.",
			answers: map[string][]string{
				firstAPIService: {unavailable, ours[0]}, secondAPIService: ours,
				nodeCalls: {status(t, http.StatusServiceUnavailable, "LiveKit has not been read yet"), `{"items": [{"value": "0"}]}`},
			},
			want: available + "active_calls of 1 nodes: 0 in all\n",
		},
		"NotAvailable": {
			reason:  "An APIService that is not available says why itself.",
			answers: map[string][]string{firstAPIService: {unavailable}},
			wantErr: []string{"APIService v1beta1.custom.metrics.k8s.io is not available: MissingEndpoints: endpoints for service/metrics-adapter have no addresses"},
		},
		"AnotherAdapter": {
			reason:  "An answer of somebody else is no answer.",
			answers: map[string][]string{firstAPIService: {apiService("prometheus-adapter", "True", "")}},
			wantErr: []string{`belongs to Service "callguard-system/prometheus-adapter", not callguard-system/metrics-adapter`, "remove the other"},
		},
		"Unknown": {
			reason: "The adapter's own reason is passed on.",
			answers: map[string][]string{
				firstAPIService: ours, secondAPIService: ours,
				nodeCalls: {status(t, http.StatusServiceUnavailable, "2 of 3 pods are unknown; pod voice/a: connection refused")},
			},
			want:    available,
			wantErr: []string{"cannot read active_calls of the nodes", "pod voice/a: connection refused"},
		},
		"NoPods": {
			reason:  "An empty list shows no metric.",
			args:    []string{"--namespace=voice"},
			answers: served(voiceCalls, `{"items": []}`),
			want:    available,
			wantErr: []string{"there are no guarded pods of namespace voice", "leave it out"},
		},
		"Forbidden": {
			reason:  "The error names what may not be read.",
			answers: map[string][]string{firstAPIService: ours, secondAPIService: ours},
			want:    available,
			wantErr: []string{"you may not read " + nodeCalls},
		},
		"NoTime":   {reason: "A check without time checks nothing.", args: []string{"--timeout=0s"}, wantErr: []string{"--timeout is 0s; use a duration above zero, such as 1m"}},
		"Argument": {reason: "A mistyped setting is not passed over.", args: []string{"voice"}, wantErr: []string{`unexpected argument "voice"`}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What is missing is requested again, until the time is up.
			ctx, timeIsUp := context.WithCancel(t.Context())
			defer timeIsUp()
			again := func() {
				if len(tc.wantErr) > 0 {
					timeIsUp()
				}
			}
			args := append([]string{"check", "--timeout=1m", "--kubeconfig=" + apiServer(t, tc.answers, again)}, tc.args...)
			var out, complaints strings.Builder
			err := Main(ctx, args, &out, &complaints)
			if (err != nil) != (len(tc.wantErr) > 0) {
				t.Fatalf("%s check = %v", tc.reason, err)
			}
			for _, want := range tc.wantErr {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s %q is missing in: %v", tc.reason, want, err)
				}
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("%s\n-want, +said:\n%s", tc.reason, diff)
			}
		})
	}
}
