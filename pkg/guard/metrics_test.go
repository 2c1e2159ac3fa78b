// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// answers answers every request with a status; zero means no answer.
type answers int

func (a answers) RoundTrip(req *http.Request) (*http.Response, error) {
	if a == 0 {
		return nil, errors.New("no route")
	}
	return &http.Response{
		StatusCode: int(a), Request: req, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403}`)),
	}, nil
}

func TestCountWrites(t *testing.T) {
	cases := map[string]struct {
		reason       string
		method, path string
		body         string
		answer       answers
		want         string // labels; empty if it does not count
	}{
		"Get":        {reason: "Reading is no writing.", method: http.MethodGet, path: "/api/v1/namespaces/voice/pods/a", answer: 200},
		"Patch":      {reason: "A step of a pod.", method: http.MethodPatch, path: "/api/v1/namespaces/voice/pods/a", answer: 200, want: `outcome="ok",resource="pods",verb="patch"`},
		"Conflict":   {reason: "The pod has changed meanwhile.", method: http.MethodPatch, path: "/api/v1/namespaces/voice/pods/a", answer: 409, want: `outcome="conflict",resource="pods",verb="patch"`},
		"Refused":    {reason: "A policy refuses it.", method: http.MethodDelete, path: "/api/v1/namespaces/voice/pods/a", answer: 403, want: `outcome="error",resource="pods",verb="delete"`},
		"NoAnswer":   {reason: "It may have been written.", method: http.MethodPatch, path: "/api/v1/namespaces/voice/pods/a", want: `outcome="error",resource="pods",verb="patch"`},
		"Event":      {reason: "An Event is a write.", method: http.MethodPost, path: "/api/v1/namespaces/voice/events", answer: 201, want: `outcome="ok",resource="events",verb="create"`},
		"Budget":     {reason: "Of a group with a name.", method: http.MethodPut, path: "/apis/policy/v1/namespaces/voice/poddisruptionbudgets/callguard", answer: 200, want: `outcome="ok",resource="poddisruptionbudgets",verb="update"`},
		"Lease":      {reason: "The election writes, too.", method: http.MethodPut, path: "/apis/coordination.k8s.io/v1/namespaces/x/leases/drain-guard", answer: 200, want: `outcome="ok",resource="leases",verb="update"`},
		"Review":     {reason: "A SelfSubjectReview changes nothing.", method: http.MethodPost, path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", answer: 201},
		"NoResource": {reason: "Nor does a request for no resource.", method: http.MethodPost, path: "/healthz", answer: 200},
		"DryRun":     {reason: "A dry run changes nothing.", method: http.MethodPatch, path: "/api/v1/namespaces/voice/pods/a?dryRun=All", answer: 200},
		"DryRunBody": {reason: "A deletion says so in its body.", method: http.MethodDelete, path: "/api/v1/namespaces/voice/pods/a", body: `{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}`, answer: 403},
		"DeleteBody": {reason: "A body alone is no dry run.", method: http.MethodDelete, path: "/api/v1/namespaces/voice/pods/a", body: `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"dryRun"}}`, answer: 200, want: `outcome="ok",resource="pods",verb="delete"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			counting := CountWrites(registry)(tc.answer)
			var body io.Reader
			if tc.body != "" {
				body = strings.NewReader(tc.body)
			}
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "https://cluster.example"+tc.path, body)
			if err != nil {
				t.Fatal(err)
			}
			if answer, err := counting.RoundTrip(req); err == nil {
				_ = answer.Body.Close()
			}
			want := ""
			if tc.want != "" {
				want = "# HELP callguard_api_writes_total Writes to the Kubernetes API, by resource, verb and outcome (ok, conflict, error).\n" +
					"# TYPE callguard_api_writes_total counter\ncallguard_api_writes_total{" + tc.want + "} 1\n"
			}
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "callguard_api_writes_total"); err != nil {
				t.Errorf("%s\n%s", tc.reason, err)
			}
		})
	}
}

// TestCountWritesOfClient sends requests like the check of the policies, every few seconds.
func TestCountWritesOfClient(t *testing.T) {
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		registry := prometheus.NewPedanticRegistry()
		config := &rest.Config{Host: "https://cluster.example", Transport: answers(http.StatusForbidden), ContentConfig: rest.ContentConfig{ContentType: contentType}}
		config.Wrap(CountWrites(registry))
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		uid := webPod("a").UID
		options := metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}, Preconditions: &metav1.Preconditions{UID: &uid}}
		if err := client.CoreV1().Pods(voice).Delete(t.Context(), "a", options); err == nil {
			t.Error("the deletion is not refused")
		}
		if n, err := testutil.GatherAndCount(registry); err != nil || n != 0 {
			t.Errorf("%s: a dry run is counted as a write (%d, %v)", contentType, n, err)
		}
		options.DryRun = nil
		if err := client.CoreV1().Pods(voice).Delete(t.Context(), "a", options); err == nil {
			t.Error("the deletion is not refused")
		}
		if n, err := testutil.GatherAndCount(registry); err != nil || n != 1 {
			t.Errorf("%s: a deletion is not counted (%d, %v)", contentType, n, err)
		}
	}
}

func TestPodCollector(t *testing.T) {
	elsewhere := newPod("e")
	elsewhere.Namespace = "elsewhere"
	g, _ := newGuard(t,
		enabledNamespace(), newDeployment("web", 3), newReplicaSet("1", 3), newStatefulSet(1),
		webPod("a"), webPod("b"), webPod("c", draining), asidePod("d"), dbPod("db-0", "new", label(call.ReleasedLabel, "drain")), newPod("bare"),
		elsewhere,
	)
	web := workloadKey(pods.Deployment, "web")
	g.report.held["a"] = held{key: web, pod: voicePod("a"), rule: "calls", since: noon().Add(-time.Minute)}
	g.report.held["b"] = held{key: web, pod: voicePod("b"), rule: "calls", since: noon().Add(-time.Hour), unread: noon().Add(-2 * time.Minute)}
	g.report.held["c"] = held{key: web, pod: voicePod("c"), rule: "floor", since: noon()}
	g.budgets.foreign[voice] = 1
	collector := &podCollector{cluster: g.cluster, budgets: g.budgets, report: g.report, now: noon}
	const want = `
# HELP callguard_budget_in_force 1 while PodDisruptionBudget callguard locks the guarded pods of the namespace, else 0: none of them is released then.
# TYPE callguard_budget_in_force gauge
callguard_budget_in_force{namespace="voice"} 1
# HELP callguard_budget_owner_missing 1 while ClusterRole callguard-budget-owner is missing: existing budgets stay in effect, and none can be created.
# TYPE callguard_budget_owner_missing gauge
callguard_budget_owner_missing 1
# HELP callguard_foreign_budgets PodDisruptionBudgets other than callguard's that match guarded pods: evictions of those pods fail.
# TYPE callguard_foreign_budgets gauge
callguard_foreign_budgets{namespace="voice"} 1
# HELP callguard_guarded_pods Guarded pods of enabled namespaces, by workload and state (serving, aside, draining, released).
# TYPE callguard_guarded_pods gauge
callguard_guarded_pods{namespace="voice",state="aside",workload="Deployment/web"} 1
callguard_guarded_pods{namespace="voice",state="draining",workload="Deployment/web"} 1
callguard_guarded_pods{namespace="voice",state="released",workload="StatefulSet/db"} 1
callguard_guarded_pods{namespace="voice",state="serving",workload="Deployment/web"} 2
callguard_guarded_pods{namespace="voice",state="serving",workload="Pod/bare"} 1
# HELP callguard_hold_seconds How long a pod that should leave has been held, by the rule that holds it.
# TYPE callguard_hold_seconds gauge
callguard_hold_seconds{namespace="voice",pod="a",rule="calls"} 60
callguard_hold_seconds{namespace="voice",pod="b",rule="calls"} 3600
callguard_hold_seconds{namespace="voice",pod="c",rule="floor"} 0
# HELP callguard_holds Pods that should leave and are held, by rule.
# TYPE callguard_holds gauge
callguard_holds{rule="calls"} 2
callguard_holds{rule="floor"} 1
# HELP callguard_order_unread_seconds How long the call-gate of a pod that is to take no more calls has answered without knowing it: calls may still come to the pod.
# TYPE callguard_order_unread_seconds gauge
callguard_order_unread_seconds{namespace="voice",pod="b"} 120
`
	if err := testutil.CollectAndCompare(collector, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	g.report.forget("c")
	if err := testutil.CollectAndCompare(collector, strings.NewReader(strings.ReplaceAll(strings.ReplaceAll(want,
		"callguard_hold_seconds{namespace=\"voice\",pod=\"c\",rule=\"floor\"} 0\n", ""), "callguard_holds{rule=\"floor\"} 1\n", ""))); err != nil {
		t.Errorf("a series goes with the last pod that is held: %s", err)
	}
}

func voicePod(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: voice, Name: name}
}
